"""What a whole recipe may not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorakit.recipe.rules.adapter import adapter_rules, loftq_rules
from lorakit.recipe.rules.base import base_rules
from lorakit.recipe.rules.check import check_rules
from lorakit.recipe.rules.compare import compare_rules
from lorakit.recipe.rules.data import data_rules
from lorakit.recipe.rules.evaluate import evaluate_rules
from lorakit.recipe.rules.fault import Fault
from lorakit.recipe.rules.grpo import grpo_rules
from lorakit.recipe.rules.output import output_rules
from lorakit.recipe.rules.train import train_rules
from lorakit.recipe.rules.vllm import vllm_rules
from lorakit.recipe.rules.warm_start import warm_start_rules

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe


def broken_rules(recipe: Recipe) -> list[Fault]:
    """Every option of `recipe` that is not built yet or cannot take effect."""
    return [
        *base_rules(recipe),
        *adapter_rules(recipe.adapter),
        *loftq_rules(recipe),
        *data_rules(recipe),
        *train_rules(recipe),
        *grpo_rules(recipe),
        *vllm_rules(recipe),
        *warm_start_rules(recipe),
        *evaluate_rules(recipe),
        *check_rules(recipe),
        *compare_rules(recipe),
        *output_rules(recipe),
    ]
