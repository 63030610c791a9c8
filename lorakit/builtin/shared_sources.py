"""Documents made of public data in a folder beside the checkout; none of it is copied here.

Sources and licences are named in the model card. What later fine-tuning and evaluation use stays
out: every row of MedQuAD's small_train_2000, every topic of its small_test_300, GSM8K's test set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorakit.builtin.document import Document, chat
from lorakit.errors import DataError

# Longer answers are cut at a sentence: the context is 1,024 tokens, about 4 characters each.
MAX_CHAT_CHARACTERS = 1400
MAX_TEXT_CHARACTERS = 3200
# MedQuAD repeats some answers word for word (inheritance patterns) for hundreds of diseases.
MAX_SAME_ANSWER = 2

_QUESTION_NOISE = re.compile(r"^What is \(are\) ")
_HEADING = re.compile(r"^(?:Key Points\n|(?:What|How|Is|Are|Who|When|Can)\b[^.?\n]{5,120}\?\s)")
_NO_PROSE = re.compile(
    r"The Human Phenotype Ontology|Signs and Symptoms Approximate number|^These resources address"
)


def medquad_rows(shared: Path) -> list[dict[str, Any]]:
    """MedQuAD's training rows without those that later fine-tuning trains on or is tested on."""
    folder = shared / "medquad"
    small = read_rows(folder / "small_train_2000.jsonl") + read_rows(
        folder / "small_test_300.jsonl"
    )
    ids = {row["id"] for row in small}
    texts = {_key(row[field]) for row in small for field in ("question", "answer")}
    test_topics = {_key(row["focus"]) for row in read_rows(folder / "small_test_300.jsonl")}
    kept = []
    answers: dict[str, int] = {}
    for row in read_rows(folder / "medquad_train.jsonl"):
        question, answer = _key(row["question"]), _key(row["answer"])
        held_out = row["id"] in ids or question in texts or answer in texts
        if held_out or _key(row["focus"]) in test_topics or _NO_PROSE.search(row["answer"]):
            continue
        beginning = answer[:120]
        answers[beginning] = answers.get(beginning, 0) + 1
        if answers[beginning] <= MAX_SAME_ANSWER:
            kept.append(row)
    return kept


def medquad_text(shared: Path) -> list[Document]:
    """Topic and answer as plain text."""
    return [
        Document(text=f"{row['focus']}\n{piece}", origin=topic(row))
        for row in medquad_rows(shared)
        for piece in _pieces(clean(row["answer"]), MAX_TEXT_CHARACTERS)
    ]


def medquad_chat(shared: Path) -> list[Document]:
    """Question and the beginning of its answer as a chat."""
    return [question_and_answer(row, MAX_CHAT_CHARACTERS) for row in medquad_rows(shared)]


def topic(row: dict[str, Any]) -> str:
    """The topic of a MedQuAD row; all its rows are trained, or none."""
    return _key(row["focus"])


def question_and_answer(row: dict[str, Any], limit: int) -> Document:
    """A MedQuAD row as a chat whose answer has at most about `limit` characters."""
    answer = shorten(clean(row["answer"]), limit)
    return chat(plain_question(row["question"]), answer, origin=topic(row))


def pubmedqa(shared: Path) -> list[Document]:
    """Abstracts as plain text, and their questions with the conclusion as chats."""
    documents = []
    for row in read_rows(shared / "instruct" / "pubmedqa_train.jsonl"):
        context = clean(row["context"])
        documents.append(Document(text=shorten(context, MAX_TEXT_CHARACTERS), origin=row["pmid"]))
        question = f"{shorten(context, 900)}\n\n{row['question']} Answer yes, no or maybe."
        verdict = str(row["answer"]).capitalize()
        answer = f"{verdict}. {clean(row['long_answer'])}"
        documents.append(chat(question, answer, origin=row["pmid"]))
    return documents


def gsm8k(shared: Path) -> list[Document]:
    """Worked problems as chats; one in three with the reasoning inside `<think>`."""
    documents = []
    for number, row in enumerate(read_rows(shared / "instruct" / "gsm8k_train.jsonl")):
        work = re.sub(r"<<.*?>>", "", row["answer"]).partition("####")[0].strip()
        if number % 3 == 0:
            answer = f"<think>{work}</think><answer>{row['final']}</answer>"
        else:
            answer = f"{work}\nThe answer is {row['final']}."
        documents.append(chat(row["question"], answer, origin=row["question"]))
    return documents


def seed_tasks(shared: Path) -> list[Document]:
    """The self-instruct seed tasks as chats."""
    documents = []
    for row in read_rows(shared / "instruct" / "self_instruct_seed_tasks.jsonl"):
        for instance in row["instances"]:
            question = "\n\n".join(part for part in (row["instruction"], instance["input"]) if part)
            answer = shorten(instance["output"], 2000)
            documents.append(chat(question[:2000], answer, origin=row["id"]))
    return documents


def conversations(shared: Path) -> list[Document]:
    """The tinker-cookbook conversations, as they are."""
    return [
        Document(
            turns=tuple((turn["role"], turn["content"]) for turn in row["messages"]),
            origin=row["messages"][-1]["content"],
        )
        for row in read_rows(shared / "instruct" / "tinker_conversations.jsonl")
    ]


def shakespeare(shared: Path) -> list[Document]:
    """Scenes of about 2,500 characters."""
    text = (shared / "tiny_shakespeare.txt").read_text()
    return [Document(text=piece, origin=piece) for piece in _pieces(text, 2500, separator="\n\n")]


SHARED_PARTS: dict[str, Callable[[Path], list[Document]]] = {
    "medquad_text": medquad_text,
    "medquad_chat": medquad_chat,
    "pubmedqa": pubmedqa,
    "gsm8k": gsm8k,
    "seed_tasks": seed_tasks,
    "conversations": conversations,
    "shakespeare": shakespeare,
}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file.

    Raises:
        DataError: the file is not there.
    """
    if not path.is_file():
        raise DataError(
            f"The pretraining corpus needs {path}, which is not there; possible: a folder with "
            "medquad/, instruct/ and tiny_shakespeare.txt. Give it as --shared-data."
        )
    with path.open() as lines:
        return [json.loads(line) for line in lines]


def clean(text: str) -> str:
    """Runs of spaces and of empty lines made one; a heading or question at the start removed."""
    text = re.sub(r"[ \t]+", " ", text.replace("\u00a0", " "))
    text = re.sub(r"\n\s*\n+", "\n", text).strip()
    return _HEADING.sub("", text) or text


def shorten(text: str, limit: int) -> str:
    """The longest beginning of whole sentences within `limit` characters, or one whole sentence."""
    return _pieces(text, limit)[0] if text else text


def plain_question(question: str) -> str:
    """MedQuAD's generated "What is (are) X ?" in plain words."""
    question = re.sub(r"\s+\?", "?", clean(question))
    return _QUESTION_NOISE.sub("What is ", question)


def _pieces(text: str, limit: int, *, separator: str = "") -> list[str]:
    """`text` cut between sentences (or at `separator`) into pieces of at most about `limit`."""
    parts = text.split(separator) if separator else re.split(r"(?<=[.!?])\s", text)
    joint = separator or " "
    pieces: list[str] = []
    for part in parts:
        if pieces and len(pieces[-1]) + len(part) < limit:
            pieces[-1] += joint + part
        else:
            pieces.append(part[: 2 * limit])
    return pieces


def _key(text: str) -> str:
    return " ".join(text.lower().split())
