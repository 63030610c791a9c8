"""Prompts said otherwise: every variant of the folder, held to what must not change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.data.contract import Finding
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.free_text import join_free, split_free
from lorakit.data.meanings import Meaning, identities
from lorakit.data.named_sets import NamedSets, prepare_named_sets
from lorakit.data.prepare import Prepared, prepare_meanings
from lorakit.data.reading import DataRules, read_meanings
from lorakit.data.variants import names, source_and_variant, variant, variant_name
from lorakit.data.varied import prepare_varied, varied, vary_conversation, vary_text
from lorakit.errors import DataError
from lorakit.recipe import Recipe
from tests import tiny

PROMPT = (
    "My daughter has probably had a fever of 38.5 C since yesterday and will not drink. The nurse "
    'said "give her water every hour" and `dose = weight * 15` for Amoxicillin_500; may the doctor '
    "often do without us?"
)
KEPT = ["38.5", '"give her water every hour"', "`dose = weight * 15`", "Amoxicillin_500;"]


@pytest.mark.parametrize("name", names())
def test_a_variant_changes_the_prompt_and_keeps_what_answers_depend_on(name: str) -> None:
    assert name == variant(name).NAME and variant(name).SUMMARY
    told = {vary_text(PROMPT, name, seed=seed) for seed in range(8)}
    assert PROMPT not in told and len(told) > 1
    for text in told:
        assert split_free(text)[1] == split_free(PROMPT)[1] == KEPT
    again = vary_text(PROMPT, name, seed=3)
    assert again == vary_text(PROMPT, name, seed=3)


def test_typos_are_few_and_leave_words_readable() -> None:
    text = "please explain carefully whether children with asthma should exercise outside"
    words = text.split(" ")
    told = vary_text(" ".join(words * 40), "typos", seed=0).split(" ")
    wrong = [(a, b) for a, b in zip(words * 40, told, strict=True) if a != b]
    assert 0.08 < len(wrong) / len(told) < 0.15  # one in nine
    for before, after in wrong:
        assert before[0] == after[0] and abs(len(before) - len(after)) <= 1


def test_another_order_has_the_same_words_and_keeps_negations_and_marks() -> None:
    text = "Should children not take aspirin, or may older children take it with food?" * 3
    for seed in range(20):
        told = vary_text(text, "word_order", seed=seed)
        words = [re.findall(r"\w+", one.lower()) for one in (text, told)]
        assert sorted(words[0]) == sorted(words[1]) and words[0] != words[1]
        assert "children not take" in told
        assert [c for c in told if c in ",?"] == [c for c in text if c in ",?"]
    beside = "Give 5 mg tablets"  # both neighbours of a number stay
    assert vary_text(beside, "word_order", seed=0).startswith("Give 5 mg")


@pytest.mark.parametrize(("text", "other"), [("what helps?", "WHAT HELPS?"), ("!? 12", "!? 12")])
def test_case_changes_what_has_a_case(text: str, other: str) -> None:
    assert {vary_text(text, "case", seed=seed) for seed in range(6)} == {other}


@settings(deadline=None)
@given(
    st.text(alphabet=st.sampled_from("aB x1'\"`$<>{}[]()_@.\n\t“”«»\u2018\u20194é中"), max_size=60)
)
def test_what_is_taken_apart_is_the_text(text: str) -> None:
    free, kept = split_free(text)
    assert join_free(free, kept) == text
    assert not any(c in "1_@4" for part in free for c in part)
    for name in names():
        assert split_free(vary_text(text, name, seed=0))[1] is not None  # nothing raises


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Run ```\nx = 1\n``` now", ["```\nx = 1\n```"]),
        ("don't say 'never mind' to it's", ["'never mind'"]),
        ("mail me at ann@example.org or https://x.org/a", ["ann@example.org", "https://x.org/a"]),
        ("Dear {name}, call f(x) in <b>bold</b>", ["{name}", "f(x)", "<b>", "</b>"]),
        ("it cost $5 and then $6", ["$5", "$6"]),
        ("solve $a + b$ please", ["$a + b$"]),
        ("Which one?\nA. rest\n(b) cold water\nSay why.", ["A. rest", "(b) cold water"]),
    ],
)
def test_what_stays(text: str, kept: list[str]) -> None:
    assert split_free(text)[1] == kept


def test_only_user_messages_change() -> None:
    parts = [{"type": "text", "text": "please explain this quickly"}, {"type": "image"}]
    meant = Conversation(
        (
            {"role": "system", "content": "answer carefully and briefly"},
            {"role": "user", "content": "please explain this quickly"},
            {"role": "assistant", "content": "explaining takes patience"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "another careful answer"},
        ),
        (1.0,) * 5,
    )
    told = vary_conversation(meant, "typos", seed=0)
    assert isinstance(told, Conversation)
    changed = [i for i in range(5) if told.messages[i] != meant.messages[i]]
    assert changed == [1, 3] and told.weights == meant.weights
    assert told.messages[3]["content"][0]["text"] == told.messages[1]["content"]
    assert told.messages[3]["content"][1] == {"type": "image"}
    assert vary_conversation(PlainText("some text"), "typos", seed=0) == PlainText("some text")


def rows(count: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Please explain slowly what often helps with complaint {n}?",
            "completion": f"Take {n} tablets twice daily.",
        }
        for n in range(count)
    ]


def test_trained_tokens_of_a_variant_are_those_of_its_source(tmp_path: Path) -> None:
    meanings = read_meanings(rows(), DataRules())
    source = prepare_varied_source(meanings)
    for name in names():
        told = prepare_varied(
            meanings, source, name, tiny.tokenizer(), DataRules(), seed=0, cache_dir=tmp_path
        )
        assert len(told.examples) == len(source.examples)
        for i in range(len(source.examples)):
            one, other = source.examples[i], told.examples[i]
            assert one.input_ids.tolist() != other.input_ids.tolist()
            np.testing.assert_array_equal(
                one.input_ids[one.loss_weights > 0], other.input_ids[other.loss_weights > 0]
            )
            assert told.rows[i].location == source.rows[i].location


def prepare_varied_source(meanings: list[Meaning]) -> Prepared:
    return prepare_meanings(meanings, tiny.tokenizer(), DataRules())


def test_a_prompt_becomes_the_same_whatever_the_other_rows_are() -> None:
    meanings = read_meanings(rows(), DataRules())
    source = prepare_varied_source(meanings)

    def told(some: list[Meaning]) -> list[list[int]]:
        ready = prepare_varied(some, source, "typos", tiny.tokenizer(), DataRules(), seed=0)
        return [ready.examples[i].input_ids.tolist() for i in range(len(ready.examples))]

    assert told(meanings[::-1]) == told(meanings)[::-1]
    assert told(meanings[3:5]) == told(meanings)[3:5]


def named(evaluate: dict[str, Any], data: dict[str, Any], tmp_path: Path) -> NamedSets:
    recipe = Recipe.model_validate(
        {"base": {"model": "x"}, "data": data, "evaluate": evaluate, "train": {}}
    )
    return prepare_named_sets(recipe, tiny.tokenizer(), tiny.config(), cache_dir=tmp_path / "cache")


def test_sets_stand_beside_their_source(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "train.csv", 40)
    sets = named({"variants": ["typos", "case"]}, {"train": path, "validation": 0.25}, tmp_path)
    assert list(sets.evaluation) == ["in_domain", "in_domain+typos", "in_domain+case"]
    assert sets.evaluation["in_domain"] is sets.validation
    for name in ("in_domain+typos", "in_domain+case"):
        assert sets.evaluation[name].kept == sets.evaluation["in_domain"].kept == 10
    again = named({"variants": ["typos"]}, {"train": path, "validation": 0.25}, tmp_path)
    first, second = (one.evaluation["in_domain+typos"].examples for one in (sets, again))
    assert first.fingerprint == second.fingerprint


def test_other_code_and_another_seed_make_other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens that were kept are found without a prompt being varied, by how it would be."""
    meanings = read_meanings(rows(), DataRules())

    def identity(name: str = "typos", seed: int = 0, some: list[Meaning] = meanings) -> bytes:
        told = varied(some, name, seed=seed)
        return b"".join(identities(told))

    def never(*_: Any, **__: Any) -> str:
        raise AssertionError("a prompt was varied")

    monkeypatch.setattr("lorakit.data.varied.vary_text", never)
    first = identity()
    assert identity() == first
    others = [identity(seed=1), identity("case"), identity(some=meanings[1:])]
    monkeypatch.setattr("lorakit.data.varied.code_version", lambda: "other")
    assert len({first, identity(), *others}) == 5


def test_what_cannot_be_varied_is_told(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Take one tablet."}\n{"text": "Take two tablets."}\n')
    path = write_rows(tmp_path / "train.csv", 20)
    with pytest.raises(DataError, match=r"in_domain\+typos: not one of the 2 prompts"):
        named({"in_domain": str(texts), "variants": ["typos"]}, {"train": path}, tmp_path)
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("question,answer\nHow? 12,Yes.\nPlease explain fever,It is heat.\n")
    sets = named({"in_domain": str(mixed), "variants": ["typos"]}, {"train": path}, tmp_path)
    told: list[Finding] = sets.evaluation["in_domain+typos"].findings
    assert [one.id for one in told] == ["prompts-not-varied"]
    assert told[0].message.startswith("1 row has nothing in its prompts")


def write_rows(path: Path, count: int) -> str:
    lines = [f"Please explain illness number {i}?,Answer {i}." for i in range(count)]
    path.write_text("question,answer\n" + "\n".join(lines))
    return str(path)


def test_names_of_sets() -> None:
    assert variant_name("in_domain", "typos") == "in_domain+typos"
    assert source_and_variant("in_domain+typos") == ("in_domain", "typos")
    assert source_and_variant("in_domain") is None
    assert source_and_variant("other/task+x") is None
