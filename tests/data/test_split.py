"""Splits: by group, by content and seed, never by order; held-out rows never occur in train."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.data.contract import Findings
from lorakit.data.meanings import Meaning
from lorakit.data.named_sets import NamedSets, prepare_named_sets, token_cache
from lorakit.data.reading import DataRules, read_meanings
from lorakit.data.split import keep_apart, split_rows
from lorakit.errors import DataError
from lorakit.recipe import Recipe, parse_recipe
from tests import tiny


def meanings(groups: list[str]) -> list[Meaning]:
    rows = [{"question": f"Q{i}?", "answer": "A.", "topic": g} for i, g in enumerate(groups)]
    return read_meanings(rows, DataRules())


def questions(held: list[Meaning]) -> set[str]:
    return {meaning.row.values["question"] for meaning in held}


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40).filter(
        lambda g: len(set(g)) > 1
    ),
    st.floats(0.05, 0.5),
    st.integers(0, 9),
)
def test_groups_never_straddle_and_order_does_not_matter(groups, fraction, seed) -> None:
    rows = meanings(groups)
    train, held = split_rows(rows, fraction, group="topic", seed=seed)
    topics = [{meaning.row.values["topic"] for meaning in side} for side in (train, held)]
    assert topics[0] and topics[1] and not topics[0] & topics[1]
    assert len(train) + len(held) == len(rows)
    assert questions(split_rows(rows[::-1], fraction, group="topic", seed=seed)[1]) == questions(
        held
    )


def test_the_share_is_kept_and_seeds_differ() -> None:
    rows = meanings(["x"] * 200)
    sides = [split_rows(rows, 0.05, group=None, seed=seed)[1] for seed in range(3)]
    assert [len(side) for side in sides] == [10, 10, 10]
    assert len({frozenset(questions(side)) for side in sides}) == 3


def test_equal_rows_stay_together() -> None:
    rows = read_meanings(
        [{"question": "Q?", "answer": a, "id": i} for i, a in enumerate("abab")], DataRules()
    )
    train, held = split_rows(rows, 0.5, group=None, seed=0)
    assert len({m.content_hash for m in held}) == 1 and len(held) == len(train) == 2


def test_what_cannot_be_split_is_an_error() -> None:
    with pytest.raises(DataError, match="cannot be split"):
        split_rows(meanings(["x"] * 3), 0.5, group="topic", seed=0)
    with pytest.raises(DataError, match="no value in the group column 'theme'"):
        split_rows(meanings(["x", "y"]), 0.5, group="theme", seed=0)


def test_held_out_rows_that_are_trained_on_are_left_out() -> None:
    train, held = meanings(["a", "b"]), meanings(["a", "b", "a", "c"])
    findings = Findings()
    kept = keep_apart(held, train, findings, group="topic")
    assert [m.row.location for m in kept] == ["memory:3", "memory:4"]
    assert findings.count("rows-shared-with-train") == 2
    assert findings.count("groups-shared-with-train") == 1


def recipe(data: dict, evaluate: dict | None = None, train: dict | None = None) -> Recipe:
    sections = {"data": data, "evaluate": evaluate or {}, "train": train or {}}
    return Recipe.model_validate({"base": {"model": "x"}} | sections)


def sets(
    tmp_path: Path, data: dict, evaluate: dict | None = None, train: dict | None = None
) -> NamedSets:
    return prepare_named_sets(
        recipe(data, evaluate, train), tiny.tokenizer(), tiny.config(), cache_dir=tmp_path / "cache"
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    def write(name: str, start: int, count: int) -> str:
        path = tmp_path / f"{name}.csv"
        lines = [f"Q{i}?,A{i}.,t{i % 7}" for i in range(start, start + count)]
        path.write_text("question,answer,topic\n" + "\n".join(lines))
        return str(path)

    return {"train": write("train", 0, 40), "other": write("other", 30, 20)}


def test_a_fraction_is_held_out(tmp_path: Path, files: dict[str, str]) -> None:
    named = sets(tmp_path, {"train": files["train"], "validation": 0.1, "group": "topic"})
    assert named.validation is not None
    topics = [
        {row.values["topic"] for row in prepared.rows}
        for prepared in (named.train, named.validation)
    ]
    assert not topics[0] & topics[1] and named.train.kept + named.validation.kept == 40
    assert named.evaluation == {"in_domain": named.validation}


PROMPTS = {
    "grpo": ({}, None),
    "sft": (
        {"train": {"method": "sft"}},
        "prompts.csv:2.*: a prompt without an answer.*train.method: grpo",
    ),
    "a fraction": ({"data": {"validation": 0.5}}, "validation: .*prompts.csv:[0-9]+: a prompt"),
    "topics": ({"data": {"hold_out_topics": {"column": "topic"}}}, "out_of_domain: .*a prompt"),
    "rows to measure": (
        {"evaluate": {"in_domain": "prompts"}},
        "prompts.csv:2.*: a prompt without an",
    ),
    "a warm start": ({"warm_start": {"max_steps": 1}}, "warm_start: .*a prompt without an answer"),
}


@pytest.mark.parametrize("place", PROMPTS)
def test_prompts_alone_are_asked_and_nothing_else(place: str, tmp_path: Path) -> None:
    """Whatever else is done with rows needs an answer."""
    path, (sections, said) = tmp_path / "prompts.csv", PROMPTS[place]
    path.write_text("prompt,topic\n" + "\n".join(f"Q{i}?,t{i % 5}" for i in range(20)))
    values: dict[str, dict] = {
        "base": {"model": "builtin"},
        "data": {"train": str(path)},
        "train": {"method": "grpo"},
        "grpo": {"rewards": ["tags"]},
    }
    for section, changed in sections.items():
        own = {n: str(path) if v == "prompts" else v for n, v in changed.items()}
        values[section] = values.get(section, {}) | own
    if values["train"]["method"] == "sft":
        del values["grpo"]
    wanted = parse_recipe(values)

    def prepared() -> NamedSets:
        return prepare_named_sets(
            wanted, tiny.tokenizer(), tiny.config(), cache_dir=tmp_path / "cache"
        )

    for _ in range(2):  # the second start reads an index, not the rows
        if said is not None:
            with pytest.raises(DataError, match=said):
                prepared()
        else:
            assert prepared().train.kept == 20


def test_named_sets_share_no_rows_with_train(tmp_path: Path, files: dict[str, str]) -> None:
    named = sets(
        tmp_path,
        {"train": files["train"]},
        {"in_domain": files["other"], "retention": {"path": files["other"]}},
    )
    assert named.validation is None and set(named.evaluation) == {"in_domain", "retention"}
    for prepared in named.evaluation.values():
        assert (prepared.read, prepared.kept, prepared.dropped) == (20, 10, 10)
    told = [f for f in named.findings() if f.id == "rows-shared-with-train"]
    assert [f.message.split(":")[0] for f in told] == ["in_domain", "retention"]
    with pytest.raises(DataError, match="retention: all 40 rows also occur in the training data"):
        sets(tmp_path, {"train": files["train"]}, {"retention": files["train"]})


def test_max_length_is_the_context_at_most(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(DataError, match="max_length 257 is over the model's context of 256"):
        sets(tmp_path, {"train": files["train"], "max_length": 257})
    assert sets(tmp_path, {"train": files["train"], "max_length": 256}).train.kept == 40


def test_a_template_file_is_used_or_named(tmp_path: Path, files: dict[str, str]) -> None:
    template = tmp_path / "own.jinja"
    template.write_text(tiny.CHATML + "{# own #}")
    named = sets(tmp_path, {"train": files["train"], "chat_template": str(template)})
    assert named.train.chat_template.endswith("{# own #}")
    with pytest.raises(DataError, match=r"chat_template .*missing\.jinja: cannot be read"):
        sets(tmp_path, {"train": files["train"], "chat_template": str(tmp_path / "missing.jinja")})


def test_where_tokens_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAKIT_CACHE", "/one")
    assert token_cache() == Path("/one/tokens")
    monkeypatch.delenv("LORAKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert token_cache() == Path("/two/lorakit/tokens")


@pytest.mark.parametrize(
    "leak",
    [
        {"prompt": " What\n helps?", "completion": "Rest. "},
        {"prompt": "What helps?", "completion": "Rest.", "id": 7},
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "What helps?"}]},
                {"role": "assistant", "content": "Rest.", "weight": 0.5},
            ]
        },
    ],
)
def test_a_leak_is_told_by_what_is_said(leak: dict) -> None:
    train = read_meanings([{"prompt": "What helps?", "completion": "Rest."}], DataRules())
    findings = Findings()
    assert keep_apart(read_meanings([leak], DataRules()), train, findings, group=None) == []
    assert findings.count("rows-shared-with-train") == 1
    other = read_meanings([{"prompt": "What helps?", "completion": "Sleep."}], DataRules())
    assert keep_apart(other, train, findings, group=None) == other


def test_evaluation_rows_are_not_those_that_decide_when_to_stop(
    tmp_path: Path, files: dict[str, str]
) -> None:
    late = tmp_path / "late.csv"
    lines = [f"Q{i}?,A{i}.,t" for i in range(45, 60)]
    late.write_text("question,answer,topic\n" + "\n".join(lines))
    named = sets(
        tmp_path, {"train": files["train"], "validation": files["other"]}, {"in_domain": str(late)}
    )
    assert named.evaluation["in_domain"].kept == 10
    assert "rows-shared-with-validation" in {f.id for f in named.findings()}
    same = sets(
        tmp_path,
        {"train": files["train"], "validation": files["other"]},
        {"in_domain": files["other"]},
    )
    assert same.evaluation == {"in_domain": same.validation}


def test_a_validation_set_that_is_measured_after_it_decided_is_told(
    tmp_path: Path, files: dict[str, str]
) -> None:
    data = {"train": files["train"], "validation": 0.2}
    told = "in-domain-decides-when-to-stop"
    patient = sets(tmp_path, data, train={"early_stopping_patience": 2})
    assert told in {f.id for f in patient.findings()}
    assert told not in {f.id for f in sets(tmp_path, data).findings()}
    own = sets(tmp_path, data, {"in_domain": files["other"]}, {"early_stopping_patience": 2})
    assert told not in {f.id for f in own.findings()}
