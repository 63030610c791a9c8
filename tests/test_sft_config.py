"""SFTConfig speaks of its faults in the words of recipes."""

from __future__ import annotations

from typing import Any

import pytest

import lorakit
from lorakit.errors import RecipeError
from lorakit.recipe import parse_recipe
from lorakit.recipe.faults import NAMES_ELSEWHERE
from lorakit.recipe.sections.check import CheckSection
from lorakit.recipe.sections.data import DataSection
from lorakit.recipe.sections.train import TrainSection

MINIMAL: dict[str, Any] = {"base": {"model": "m"}, "data": {"train": "t.jsonl"}}
# Values that both a recipe and an SFTConfig refuse.
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("train", {"learning_rate": -1}),
    ("train", {"learning_rat": 1e-4}),
    ("train", {"batch_size": True}),
    ("train", {"lr_scheduler_type": "square"}),
    ("train", {"optim": "lion_8bit"}),
    ("train", {"optim": "adamw_torch_fused"}),
    ("train", {"optim_memory": "64MB"}),
    ("train", {"loraplus_lr_embedding": 1e-5}),
    ("train", {"max_steps": 3, "num_train_epochs": 2}),
    ("train", {"early_stopping_threshold": 0.1}),
    ("train", {"warmup_steps": 3, "warmup_ratio": 0.2}),
    ("train", {"per_device_train_batch_size": 3}),
    ("data", {"max_seq_length": 3}),
    ("data", {"format": "alpacca"}),
    ("data", {"max_dropped": 2}),
    ("data", {"trained": "none"}),
]


def refusal(make: Any, values: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        make(**values)
    return str(caught.value)


@pytest.mark.parametrize(("section", "values"), REFUSED, ids=lambda value: str(value))
def test_the_words_are_those_of_a_recipe(section: str, values: dict[str, Any]) -> None:
    here = refusal(lorakit.SFTConfig, values)
    there = refusal(
        lambda **given: parse_recipe(MINIMAL | {section: MINIMAL.get(section, {}) | given}), values
    )
    # A recipe names sections, which are none here.
    there = there.replace("recipe:", "SFTConfig:").replace(f"a key of {section!r}", "KEY")
    there = there.replace(f"{section}.", "").replace(f" {section} ", " ")
    here = here.replace("a key of these options", "KEY")
    assert here == there
    assert "pydantic" not in here and "Input should" not in here


def test_all_faults_are_told_at_once() -> None:
    message = refusal(lorakit.SFTConfig, {"learning_rate": 0, "max_length": 0, "colunms": {}})
    assert message.startswith("SFTConfig has 3 faults:")
    assert "did you mean columns?" in message


@pytest.mark.parametrize("name", sorted(NAMES_ELSEWHERE))
def test_names_of_other_tools_lead_to_options_that_exist(name: str) -> None:
    message = refusal(lorakit.SFTConfig, {name: 1})
    here = message.partition("here it is ")[2]
    assert "train." not in message and "data." not in message and "base." not in message
    if here:
        assert here.split()[0].rstrip(",") in lorakit.SFTConfig.model_fields


def test_no_option_is_missing() -> None:
    elsewhere = {
        "train",
        "validation",
        "group",
        "hold_out_topics",
        "chat_template",
    }  # arguments of train_sft, or none
    sections = (TrainSection, DataSection, CheckSection)
    wanted = {name for section in sections for name in section.model_fields} - elsewhere
    assert lorakit.SFTConfig.model_fields.keys() == wanted | {"output_dir"}


def test_rewards_are_no_matter_of_train_sft() -> None:
    message = refusal(lorakit.SFTConfig, {"method": "grpo"})
    assert "'grpo' is not what train_sft does" in message and "train_grpo" in message
