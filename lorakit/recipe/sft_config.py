"""The options of `lorakit.train_sft`: the recipe's, flat, with the recipe's errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from lorakit.errors import RecipeError
from lorakit.recipe.faults import faults_of, in_words
from lorakit.recipe.rules.fault import RuleError
from lorakit.recipe.rules.train import sft_rules
from lorakit.recipe.sections.section import PositiveInt
from lorakit.recipe.sections.train import TrainSection


class SFTConfig(TrainSection):
    """For `lorakit.train_sft`: the loop, how rows become examples, where the run goes.

    Raises:
        RecipeError: an unknown option (the nearest known one is named), a bad value, or an option
            that cannot take effect. All faults are listed at once.
    """

    max_length: PositiveInt | None = None
    too_long: Literal["drop", "error"] = "drop"
    max_dropped: Annotated[float, Field(ge=0, le=1)] = 0.2
    packing: bool = True
    trained: Literal["assistant", "completion", "all"] = "assistant"
    format: str = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    system: str | None = None
    silence: list[str] = Field(
        default_factory=list,
        description="Ids of what is seen while training (docs/rules) that is counted, not told.",
    )
    output_dir: str | None = Field(
        None, description="Run folder with checkpoints and metrics; null: none is written."
    )

    # Sections of a recipe cannot do this: pydantic would call it in the middle of the recipe.
    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            faults = faults_of(error, values, SFTConfig)
            raise RecipeError(in_words(faults, {}, "SFTConfig")) from None

    @model_validator(mode="after")
    def _every_option_takes_effect(self) -> SFTConfig:
        faults = list(sft_rules(self))
        if faults:
            raise RuleError(faults)
        return self
