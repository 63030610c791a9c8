"""The corpus is seeded, follows its mixture, and holds out what it says."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pytest

from lorakit.builtin import arithmetic, corpus
from lorakit.builtin.copying import copying, ordered
from lorakit.builtin.document import Document
from lorakit.builtin.shared_sources import medquad_rows, plain_question, read_rows
from lorakit.errors import DataError

PARTS = sorted(corpus.PARTS)


def documents(
    part: str, shared: Path, number: int, *, seed: int = 0, held_out: bool = False
) -> list[Document]:
    stream = corpus.part_documents(part, shared, seed=seed, phase="main", held_out=held_out)
    return list(itertools.islice(stream, number))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_its_seed(part: str, small_shared: Path) -> None:
    first = documents(part, small_shared, 40)
    assert first == documents(part, small_shared, 40)
    assert first != documents(part, small_shared, 40, seed=1)


@pytest.mark.parametrize("part", PARTS)
def test_a_document_is_text_or_turns_that_end_with_the_assistant(
    part: str, small_shared: Path
) -> None:
    for document in documents(part, small_shared, 60):
        assert bool(document.text) != bool(document.turns)
        roles = [role for role, _ in document.turns]
        assert not roles or roles[-2:] == ["user", "assistant"]
        assert all(content.strip() for _, content in document.turns)


def test_every_mixture_is_whole_and_of_known_parts() -> None:
    for mixture in corpus.MIXTURES.values():
        assert sum(mixture.values()) == pytest.approx(1)
        assert set(mixture) <= set(corpus.READ_PARTS) | set(corpus.GENERATED_PARTS)


def test_blocks_follow_the_mixture_and_do_not_depend_on_how_many_follow(small_shared: Path) -> None:
    def blocks(number: int) -> list[list[Document]]:
        stream = corpus.phase_blocks(
            "anneal",
            small_shared,
            seed=0,
            block_tokens=40_000,
            count_tokens=lambda document: len(document.content()),
        )
        return list(itertools.islice(stream, number))

    two = blocks(2)
    assert two[0] == blocks(1)[0]
    sizes = [sum(len(document.content()) for document in block) for block in two]
    assert sum(sizes) == pytest.approx(80_000, rel=0.1)
    sums = [
        len(document.content())
        for block in two
        for document in block
        if "<think>" in document.content() and re.search(r"\d [-+*] \d", document.content())
    ]
    assert sums


def test_no_origin_is_both_trained_and_held_out(small_shared: Path) -> None:
    trained, held_out = set(), set()
    for part in corpus.READ_PARTS:
        trained |= {document.origin for document in documents(part, small_shared, 200)}
        held_out |= {
            document.origin for document in documents(part, small_shared, 200, held_out=True)
        }
    assert "" not in trained | held_out
    assert held_out
    assert not trained & held_out


def test_held_out_sums_are_never_trained() -> None:
    rng = random.Random(0)
    for held_out in (False, True):
        for _ in range(500):
            text = arithmetic.arithmetic(rng, held_out=held_out).content()
            found = re.search(r"(\d+) ([-+*]) (\d+) = \d+\n(\d+)", text)
            if found:
                left, sign, right, _ = found.groups()
                assert arithmetic.is_held_out(int(left), int(right), sign) == held_out


def test_every_equation_of_the_arithmetic_part_is_right() -> None:
    rng = random.Random(0)
    compute = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    checked = 0
    for _ in range(2000):
        text = arithmetic.arithmetic(rng).content()
        for left, sign, right, result in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", text):
            assert compute[sign](int(left), int(right)) == int(result), text
            checked += 1
    assert checked > 1000


def test_every_word_that_a_copying_task_answers_stands_in_its_question() -> None:
    rng = random.Random(0)
    asked = 0
    for number in range(1000):
        document = (copying, ordered)[number % 2](rng)
        if document.turns:
            (_, question), (_, answer) = document.turns
            given = set(re.findall(r"\w+", question.lower()))
            missing = set(re.findall(r"\w+", answer.lower())) - given
            assert not missing, (question, answer)
            asked += 1
        else:
            first, *others = document.text.split("\n\n")
            words = sorted(re.findall(r"\w+", first))
            assert others
            assert all(sorted(re.findall(r"\w+", text)) == words for text in others)
    assert asked > 500


def test_rows_of_later_training_and_test_stay_out(small_shared: Path) -> None:
    topics = {row["focus"] for row in medquad_rows(small_shared)}
    assert topics == {f"Disease {number}" for number in range(10, 60)}


def test_no_row_of_the_real_small_sets_is_in_the_corpus(shared_data: Path) -> None:
    folder = shared_data / "medquad"
    train, test = (
        read_rows(folder / name) for name in ("small_train_2000.jsonl", "small_test_300.jsonl")
    )
    rows = medquad_rows(shared_data)
    assert len(rows) > 5000
    for field in ("id", "question", "answer"):
        kept = {" ".join(row[field].lower().split()) for row in rows}
        assert not kept & {" ".join(row[field].lower().split()) for row in train + test}
    topics = {row["focus"].lower() for row in test}
    questions = {plain_question(row["question"]) for row in train + test}
    for part in ("medquad_text", "medquad_chat", "medquad_short", "reading"):
        for document in corpus.READ_PARTS[part](shared_data):
            assert document.origin not in topics
            asked = document.turns[0][1].split("\n\n")[-1] if document.turns else ""
            assert asked not in questions


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tinker_conversations.*--shared-data"):
        next(corpus.part_documents("conversations", tmp_path, seed=0, phase="main"))
