"""A whole recipe."""

from __future__ import annotations

from pydantic import Field, model_validator

from lorakit.recipe.rules.fault import RuleError
from lorakit.recipe.rules.recipe import broken_rules
from lorakit.recipe.sections.adapter import LoraConfig
from lorakit.recipe.sections.base import BaseSection
from lorakit.recipe.sections.check import CheckSection
from lorakit.recipe.sections.compare import CompareSection
from lorakit.recipe.sections.data import DataSection
from lorakit.recipe.sections.evaluate import EvaluateSection
from lorakit.recipe.sections.grpo import GRPOSection
from lorakit.recipe.sections.output import OutputSection
from lorakit.recipe.sections.section import Section
from lorakit.recipe.sections.train import TrainSection
from lorakit.recipe.sections.warm_start import WarmStartSection


class Recipe(Section):
    """A whole recipe."""

    base: BaseSection
    adapter: LoraConfig = Field(default_factory=LoraConfig)
    data: DataSection
    train: TrainSection = Field(default_factory=TrainSection)
    grpo: GRPOSection = Field(default_factory=GRPOSection)
    warm_start: WarmStartSection | None = Field(
        None, description="SFT of the same adapter before train.method grpo; null: none."
    )
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    check: CheckSection = Field(default_factory=CheckSection)
    compare: CompareSection = Field(default_factory=CompareSection)
    output: OutputSection = Field(default_factory=OutputSection)

    @model_validator(mode="after")
    def _every_option_takes_effect(self) -> Recipe:
        faults = broken_rules(self)
        if faults:
            raise RuleError(faults)
        return self
