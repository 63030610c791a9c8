"""Search and prompts: the right chunk first, the same each time, and never a question cut."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lorakit
from lorakit.errors import DataError, InputError
from lorakit.retrieve.chunks import Chunk
from lorakit.retrieve.index import Bm25, search_words
from lorakit.retrieve.prompt import cited, fitting, with_documents, without_citations
from lorakit.retrieve.retriever import Found, Retriever

TEXTS = [
    "Paracetamol lowers fever. The dose is 500 mg.",
    "Honey helps against cough at night.",
    "Fever in children: see a doctor after three days.",
    "咳嗽可以用蜂蜜治疗。",
]


def retriever(texts: list[str] = TEXTS) -> Retriever:
    return Retriever([Chunk(text, "d.txt", n) for n, text in enumerate(texts, 1)])


def test_the_chunk_that_speaks_of_it_is_found_with_its_place() -> None:
    fever, cough, none, chinese = retriever().search(
        ["What is the dose of paracetamol?", "COUGH?", "Zebra the of", "蜂蜜"], k=2
    )
    assert [(one.number, one.chunk.line) for one in fever] == [(1, 1)]
    assert [one.chunk.source for one in cough] == ["d.txt:2"]
    assert none == []
    assert [one.chunk.line for one in chinese] == [4]
    assert fever[0].to_json() == {
        "number": 1,
        "source": "d.txt:1",
        "score": fever[0].score,
        "text": fever[0].chunk.text,
    }


def test_scores_are_those_of_lucene_s_formula() -> None:
    """Written out: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), tf saturated with k1 1.5 and b 0.75."""
    texts = ["fever fever cough", "fever rash", "rash rash rash cold"]
    lengths = np.array([3, 2, 4])
    norm = 1.5 * (0.25 + 0.75 * lengths / lengths.mean())
    counts = {"fever": np.array([2, 1, 0]), "rash": np.array([0, 1, 3])}
    expected = sum(
        np.log(1 + (3 - (c > 0).sum() + 0.5) / ((c > 0).sum() + 0.5)) * c / (c + norm)
        for c in counts.values()
    )
    found = dict(Bm25(texts).search("Fever or rash, rash?", 3))
    assert found == {i: pytest.approx(expected[i], rel=1e-5) for i in range(3)}


def test_equal_scores_stay_in_the_order_of_the_documents() -> None:
    same = Bm25(["fever"] * 50)
    assert [index for index, _ in same.search("fever", 5)] == [0, 1, 2, 3, 4]


def test_the_same_documents_rank_the_same_in_every_process() -> None:
    program = (
        "from lorakit.retrieve.index import Bm25\n"
        "texts = [' '.join(f'w{(i * j) % 13}' for j in range(1, 9)) for i in range(60)]\n"
        "print(Bm25(texts).search('w1 w5 w7 w11 w2', 60))"
    )
    environment = {"PYTHONPATH": str(Path(lorakit.__file__).parents[1]), "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    texts = [" ".join(f"w{(i * j) % 13}" for j in range(1, 9)) for i in range(60)]
    found = Bm25(texts).search("w1 w5 w7 w11 w2", 60)
    assert done.stdout == f"{found}\n" and len(found) > 20


def test_what_words_are() -> None:
    assert search_words("The X-ray of 2,5 mg Ärger, na\u0308her") == [
        "x", "ray", "2", "5", "mg", "ärger", "na\u0308her",
    ]  # fmt: skip
    assert search_words("咳嗽 ok") == ["咳", "嗽", "ok"]


def test_bad_questions_are_said() -> None:
    with pytest.raises(InputError, match="a list of questions"):
        retriever().search("fever")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="k is 0"):
        retriever().search(["fever"], k=0)
    with pytest.raises(DataError, match="no chunks"):
        Retriever([])
    assert Bm25(["the of", "..."]).search("the", 3) == []


def test_the_library_reads_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Cough\n\nHoney helps.")
    found = lorakit.Retriever.from_path(tmp_path)
    assert len(found.chunks) == 1 and found.seconds > 0
    messages = lorakit.with_documents(
        [{"role": "user", "content": "Cough?"}], found.search(["Cough?"])[0]
    )
    assert messages[0]["content"].endswith("[1] # Cough\n\nHoney helps.\n\nCough?")


def found(*texts: str) -> list[Found]:
    return [Found(n, Chunk(text, "d", n), 1.0) for n, text in enumerate(texts, 1)]


def test_documents_go_into_the_last_message_and_are_text_whatever_they_spell() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q {documents}"}]
    made = with_documents(messages, found("a {question}", r"b \1"), prompt="{documents}|{question}")
    assert made == [
        messages[0],
        {"role": "user", "content": "[1] a {question}\n\n[2] b \\1|Q {documents}"},
    ]
    assert with_documents(messages, []) == messages
    assert messages[1]["content"] == "Q {documents}"


def test_the_last_ones_are_dropped_until_it_fits_and_the_question_never() -> None:
    def ids(kept: list[int]) -> list[int]:
        return [0] * (10 + sum(kept))

    assert fitting([5, 4, 3], ids, None)[1] == [5, 4, 3]
    assert fitting([5, 4, 3], ids, 22)[1] == [5, 4, 3]
    assert fitting([5, 4, 3], ids, 21)[1] == [5, 4]
    assert fitting([5, 4, 3], ids, 3) == ([0] * 10, [])


def test_citations_are_read_and_taken_away_but_other_brackets_stay() -> None:
    given = found("a", "b")
    text = "Honey [2]. Rest [1, 2] for [3] days [see 1]."
    assert cited(text, given) == [2, 1]
    assert without_citations(text, given) == "Honey. Rest for [3] days [see 1]."
