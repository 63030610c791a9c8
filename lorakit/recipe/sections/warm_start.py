"""`warm_start`: supervised fine-tuning of the same adapter before `train.method: grpo`."""

from __future__ import annotations

from pydantic import Field

from lorakit.recipe.sections.data import SourceList, SourceListOrFraction
from lorakit.recipe.sections.stage import StageSection


class WarmStartSection(StageSection):
    """A stage of SFT on traces; what is not said here is as in `train` and `data`."""

    train: SourceList | None = Field(
        None, description="Traces, like data.train; null: data.train itself, with its answers."
    )
    validation: SourceListOrFraction | None = Field(
        None, description="Rows like `train` whose loss is measured each epoch, or a fraction."
    )
