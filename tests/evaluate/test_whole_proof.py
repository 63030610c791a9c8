"""From a recipe with variants, unseen topics and retention to evaluation.json and the report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorakit.cli import main
from lorakit.errors import RecipeError
from lorakit.recipe import dump_recipe, parse_recipe
from tests.report.pages import parse

TOPICS = ("fever", "asthma", "rash", "gout", "cough")


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned a few rows by heart, and measured it."""
    folder = tmp_path_factory.mktemp("proof")
    rows = [
        {
            "prompt": f"Please explain what helps against {topic} in case {n}?",
            "completion": f"Take {n % 7} tablets of the {topic} kind daily with a little food.",
            "topic": topic,
        }
        for n in range(30)
        for topic in TOPICS
    ]
    texts = [{"text": f"The patient was seen in clinic {n} today."} for n in range(30)]
    for name, lines in (("train", rows), ("general", texts)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = {
        "base": {"model": str(tiny_folder), "dtype": "float32"},
        "adapter": {"r": 8},
        "data": {
            "train": str(folder / "train.jsonl"),
            "validation": 0.25,
            "hold_out_topics": {"column": "topic", "values": ["gout"]},
        },
        "train": {
            "max_steps": 30,
            "batch_size": 16,
            "learning_rate": 1e-2,
            "eval_steps": 15,
            "warmup_steps": 0,
        },
        "evaluate": {
            "retention": str(folder / "general.jsonl"),
            "variants": ["typos"],
            "metrics": ["token_f1", "exact_match"],
            "primary": {"retention": "kl"},
            "margin": 0.005,
            "max_generated": 6,
            "max_new_tokens": 12,
        },
        "output": {"dir": str(folder / "run")},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["train", str(path)]) == 0
    return folder / "run"


def test_the_whole_way_from_recipe_to_report(run: Path) -> None:
    told: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    assert set(told) == {"in_domain", "in_domain+typos", "out_of_domain", "retention"}
    for one in told.values():
        assert one["verdict"] in ("better", "no difference", "worse")
        assert one["correction"] == {"method": "holm", "tests": 4}
        assert one["p_value"] <= one["p_value_corrected"] <= 1
        assert one["calibration"]["positions"] > 0
    given, varied = told["in_domain"], told["in_domain+typos"]
    assert given["examples"] == varied["examples"] == 30
    lost = varied["variant"]["metrics"]
    assert set(lost) == {"loss", "token_f1", "exact_match"}
    for who in ("base", "tuned"):
        assert lost["loss"][who]["given"] == pytest.approx(given["metrics"]["loss"][who])
        assert lost["loss"][who]["varied"] == pytest.approx(varied["metrics"]["loss"][who])
        assert lost["token_f1"][who]["given"] == pytest.approx(given["metrics"]["token_f1"][who])
    assert "mcnemar" in given["metrics"]["exact_match"]
    assert given["overfitting"]["seen"]["tuned"] < given["overfitting"]["seen"]["base"] - 0.2
    assert given["overfitting"]["unseen"]["tuned"] == given["metrics"]["loss"]["tuned"]
    assert given["overfitting"]["validation"]["last_step"] == 30
    assert given["memorisation"]["answers"] == 6 and "memorisation" not in varied
    kl = told["retention"]["metrics"]["kl"]
    assert kl["distance"] and kl["base"] == 0 < kl["interval"][0] < kl["tuned"]
    assert told["retention"]["verdict"] == "worse"  # it moved further than 0.005 nats
    tree = parse((run / "report.html").read_text())
    for name in ("variants", "overfitting", "memorisation", "calibration"):
        assert tree.by_id(name).with_class("said")
    assert "In-domain, with typos" in tree.by_id("verdict").text


def test_held_out_topics_stay_held_out_when_it_is_measured_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((run / "evaluation.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again.keys() == before.keys()
    for name, one in again.items():
        assert one["examples"] == before[name]["examples"]
        assert one["metrics"]["loss"]["tuned"] == pytest.approx(
            before[name]["metrics"]["loss"]["tuned"], rel=1e-5
        )
    facts = json.loads((run / "data.json").read_text())["sets"]
    assert facts["out_of_domain"]["kept"] == 30 and facts["train"]["kept"] == 90


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"variants": ["typo"]}, "'typo' is not known; did you mean typos?"),
        ({"variants": ["typos", "typos"]}, "named twice"),
        ({"metrics": ["kl"]}, "measured on evaluate.retention, which is not set"),
        ({"primary": "kl"}, "possible for it: {retention: kl}"),
        ({"primary": {"in_domain": "kl"}}, "possible for it: {retention: kl}"),
    ],
)
def test_what_cannot_be_measured_is_refused(evaluate: dict[str, Any], message: str) -> None:
    recipe = {"base": {"model": "x"}, "data": {"train": "a.jsonl"}}
    with pytest.raises(RecipeError, match=re.escape(message)):
        parse_recipe(recipe | {"evaluate": {"in_domain": "b.jsonl"} | evaluate})


def test_variants_need_a_set_to_vary() -> None:
    recipe: dict[str, Any] = {"base": {"model": "x"}, "data": {"train": "a.jsonl"}}
    evaluate = {"retention": "b.jsonl", "variants": ["typos"], "primary": {"retention": "kl"}}
    with pytest.raises(RecipeError, match=r"evaluate\.variants cannot take effect"):
        parse_recipe(recipe | {"evaluate": evaluate})
    recipe["data"]["validation"] = 0.1
    written = parse_recipe(recipe | {"evaluate": evaluate})
    assert parse_recipe(yaml.safe_load(dump_recipe(written))) == written
    assert "variants" in dump_recipe(written)
    without = parse_recipe({"base": {"model": "x"}, "data": {"train": "a.jsonl"}})
    assert parse_recipe(yaml.safe_load(dump_recipe(without))) == without
