"""Reading tasks over real medical sentences, as chats: the answer is to be found in the question.

A small model learns few facts; copying the right words from what it was given is what it can be
good at, and what a form filled from a note asks of it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

from lorakit.builtin.document import Document, chat
from lorakit.builtin.shared_sources import (
    clean,
    medquad_rows,
    plain_question,
    question_and_answer,
    topic,
)

_SENTENCE = re.compile(r"[A-Z][^.!?\n:]{25,180}\.(?=\s|$)")
MAX_SHORT_CHARACTERS = 320
_ORDINALS = ("first", "second", "third", "fourth")


def medquad_short(shared: Path) -> list[Document]:
    """Question and the first one to three sentences of its answer."""
    return [question_and_answer(row, MAX_SHORT_CHARACTERS) for row in medquad_rows(shared)]


def reading(shared: Path) -> list[Document]:
    """One task on the first sentences of each answer that has at least two."""
    rng = random.Random("reading")
    documents = []
    for row in medquad_rows(shared):
        sentences = _SENTENCE.findall(clean(row["answer"]))[: rng.randint(2, 4)]
        if len(sentences) < 2:
            continue
        origin = topic(row)
        if rng.random() < 0.3:
            text = f"{' '.join(sentences)}\n\n{plain_question(row['question'])}"
            documents.append(chat(text, sentences[0], origin=origin))
            continue
        task, answer = rng.choice(_TASKS)(rng, sentences)
        text = " ".join(sentences)
        question = rng.choice((f"{task}\n\n{text}", f"{text}\n\n{task}"))
        documents.append(chat(question, answer, origin=origin))
    return documents


def _repeat(rng: random.Random, sentences: list[str]) -> tuple[str, str]:
    return rng.choice(("Repeat this text.", "Copy this text.")), " ".join(sentences)


def _one(rng: random.Random, sentences: list[str]) -> tuple[str, str]:
    number = rng.randrange(len(sentences))
    return f"What is the {_ORDINALS[number]} sentence?", sentences[number]


def _last(rng: random.Random, sentences: list[str]) -> tuple[str, str]:
    return "What is the last sentence?", sentences[-1]


def _bullets(rng: random.Random, sentences: list[str]) -> tuple[str, str]:
    return "Write this as a bulleted list.", "\n".join(f"- {item}" for item in sentences)


def _numbers(rng: random.Random, sentences: list[str]) -> tuple[str, str]:
    lines = [f"{number}. {item}" for number, item in enumerate(sentences, 1)]
    return "Write this as a numbered list.", "\n".join(lines)


def _mentions(rng: random.Random, sentences: list[str]) -> tuple[str, str]:
    number = rng.randrange(len(sentences))
    others = " ".join(s for n, s in enumerate(sentences) if n != number).lower()
    words = [w for w in re.findall(r"[A-Za-z]{6,}", sentences[number]) if w.lower() not in others]
    if not words:
        return _one(rng, sentences)
    return f'Which sentence has the word "{rng.choice(words)}"?', sentences[number]


def _complete(rng: random.Random, sentences: list[str]) -> tuple[str, str]:
    sentence = rng.choice(sentences)
    words = sentence.split(" ")
    kept = rng.randint(2, max(2, len(words) // 2))
    return f'Complete with the text: "{" ".join(words[:kept])} ..."', " ".join(words[kept:])


def _count(rng: random.Random, sentences: list[str]) -> tuple[str, str]:
    return "How many sentences does the text have?", str(len(sentences))


_TASKS: tuple[Callable[[random.Random, list[str]], tuple[str, str]], ...] = (
    _repeat, _repeat, _one, _one, _last, _bullets, _numbers, _mentions, _mentions, _complete,
    _complete, _count,
)  # fmt: skip
