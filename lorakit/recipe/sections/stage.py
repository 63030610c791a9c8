"""What a stage of training decides for itself: how long, in what steps, how fast."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lorakit.recipe.sections.section import NonNegativeInt, PositiveFloat, PositiveInt, Section


class StageSection(Section):
    """Options that `train` and `warm_start` both have."""

    num_train_epochs: Annotated[float, Field(gt=0, le=100_000)] = 3.0
    max_steps: PositiveInt | None = Field(
        None, description="Optimizer steps, instead of the epochs."
    )
    batch_size: PositiveInt = Field(
        8, description="Examples per optimizer step; with train.method grpo completions."
    )
    learning_rate: PositiveFloat = 2e-4
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: NonNegativeInt | None = None
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of steps; default 0.05, with lr_scheduler_type constant 0."
    )

    save_steps: PositiveInt | None = Field(
        None, description="Checkpoint every N steps of the stage; null: each epoch."
    )

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("warmup_steps and warmup_ratio are both given; give one of them")
        return self
