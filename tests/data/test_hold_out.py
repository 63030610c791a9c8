"""Unseen topics: whole values of a column, out of training and out of validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lorakit.data.named_sets import NamedSets, prepare_named_sets
from lorakit.data.reading import DataRules, read_meanings
from lorakit.data.split import hold_out_topics
from lorakit.errors import DataError, RecipeError
from lorakit.plan.plan import plan
from lorakit.recipe import Recipe, dump_recipe, parse_recipe
from tests import tiny


@pytest.fixture
def train(tmp_path: Path) -> str:
    path = tmp_path / "train.csv"
    lines = [f"Q{i}?,A{i}.,t{i % 8}" for i in range(80)]
    path.write_text("question,answer,topic\n" + "\n".join(lines))
    return str(path)


def sets(tmp_path: Path, data: dict[str, Any], evaluate: dict[str, Any] | None = None) -> NamedSets:
    recipe = Recipe.model_validate(
        {"base": {"model": "x"}, "data": data, "evaluate": evaluate or {}, "train": {}}
    )
    return prepare_named_sets(recipe, tiny.tokenizer(), tiny.config(), cache_dir=tmp_path / "cache")


def topics(prepared: Any) -> set[str]:
    return {row.values["topic"] for row in prepared.rows}


@pytest.mark.parametrize("validation", [0.2, None])
def test_held_out_topics_are_neither_trained_nor_validated(
    train: str, tmp_path: Path, validation: float | None
) -> None:
    data = {"train": train, "hold_out_topics": {"column": "topic", "fraction": 0.25}}
    found = sets(tmp_path, data | ({} if validation is None else {"validation": validation}))
    unseen = found.evaluation["out_of_domain"]
    assert len(topics(unseen)) == 2 and unseen.kept == 20
    others = [one for one in (found.train, found.validation) if one is not None]
    assert not any(topics(unseen) & topics(one) for one in others)
    assert sum(one.kept for one in others) == 60
    (told,) = [one for one in found.findings() if one.id == "topics-held-out"]
    named = ", ".join(map(repr, sorted(topics(unseen))))
    assert told.message == (
        "out_of_domain: 2 values of the column 'topic' (20 rows of data.train) are held out of "
        f"training and validation: {named}"
    )


def test_topics_named_are_those_held_out_and_left_out_of_other_sets(
    train: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("question,answer,topic\nNew 1?,B.,t3\nNew 2?,B.,t4\n")
    data = {
        "train": train,
        "validation": str(other),
        "hold_out_topics": {"column": "topic", "values": ["t3"]},
    }
    found = sets(tmp_path, data)
    assert topics(found.evaluation["out_of_domain"]) == {"t3"}
    assert found.train.kept == 70 and found.validation is not None
    assert topics(found.validation) == {"t4"}
    told = [one for one in found.findings() if one.id == "rows-of-held-out-topics"]
    assert [one.message.split(",")[0] for one in told] == [
        "validation: 1 row is about topics that data.hold_out_topics holds out and was left out"
    ]


def test_numbers_are_topics_too() -> None:
    rows = [{"question": f"Q{i}?", "answer": "A.", "year": 2000 + i % 3} for i in range(9)]
    meanings = read_meanings(rows, DataRules())
    rest, unseen = hold_out_topics(meanings, "year", ["2001"], 0.1, seed=0)
    assert (len(rest), len(unseen)) == (6, 3)
    assert {one.row.values["year"] for one in unseen} == {2001}


def test_another_seed_holds_out_other_topics() -> None:
    rows = [{"question": f"Q{i}?", "answer": "A.", "topic": i % 20} for i in range(60)]
    meanings = read_meanings(rows, DataRules())
    held = [
        frozenset(
            m.row.values["topic"] for m in hold_out_topics(meanings, "topic", None, 0.1, seed=s)[1]
        )
        for s in (0, 0, 1)
    ]
    assert held[0] == held[1] != held[2] and {len(one) for one in held} == {2}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"column": "theme"}, "no value in the group column 'theme'"),
        ({"column": "topic", "values": ["t1", "x"]}, r"\['x'\] do not occur.*it has 't0', 't1'"),
        ({"column": "topic", "values": [f"t{i}" for i in range(8)]}, "no row is left to train on"),
    ],
)
def test_what_cannot_be_held_out_is_an_error(
    train: str, tmp_path: Path, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        sets(tmp_path, {"train": train, "hold_out_topics": wanted})


def test_the_recipe_is_held_to_its_rules(train: str) -> None:
    def recipe(data: dict[str, Any], evaluate: dict[str, Any] | None = None) -> Recipe:
        given = {"base": {"model": "x"}, "data": {"train": train} | data}
        return parse_recipe(given | {"evaluate": evaluate or {}})

    wanted = {"hold_out_topics": {"column": "topic"}}
    with pytest.raises(RecipeError, match=r"evaluate\.out_of_domain names a set, but"):
        recipe(wanted, {"out_of_domain": train})
    with pytest.raises(RecipeError, match="values says which topics"):
        recipe({"hold_out_topics": {"column": "topic", "values": ["a"], "fraction": 0.2}})
    assert recipe(wanted, {"primary": {"out_of_domain": "loss"}}).data.hold_out_topics is not None
    for data in (wanted, {"hold_out_topics": {"column": "topic", "values": ["a", 3]}}):
        written = recipe(data)
        assert parse_recipe(yaml.safe_load(dump_recipe(written))) == written


def test_the_plan_counts_the_rows_that_are_trained(
    train: str, tmp_path: Path, tiny_folder: Path
) -> None:
    def tokens(data: dict[str, Any]) -> int:
        recipe = parse_recipe(
            {"base": {"model": str(tiny_folder)}, "data": {"train": train} | data}
        )
        planned = plan(recipe)
        assert planned.tokens is not None
        return planned.tokens

    held = {"hold_out_topics": {"column": "topic", "values": ["t3", "t4"]}}
    assert tokens(held) < 0.8 * tokens({})
