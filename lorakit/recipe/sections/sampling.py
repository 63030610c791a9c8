"""`evaluate.sampling`: several answers to each question, sampled at a temperature."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lorakit.recipe.metric_names import sampled_metrics
from lorakit.recipe.sections.section import NonNegativeFloat, PositiveInt, Section

# Numbers of ways to draw k of so many stay within float64.
MOST_SAMPLES = 1000


class SamplingSection(Section):
    """What base and tuned can with several tries: pass@k and majority@k."""

    num_samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = Field(
        8,
        description="Answers that are sampled to each answered question (n); k is at most as many.",
    )
    pass_at: list[PositiveInt] = Field(
        default_factory=lambda: [1],
        description="The k of pass@k: how likely one of k answers is right.",
    )
    majority_at: list[PositiveInt] = Field(
        default_factory=list,
        description="The k of majority@k: how likely the answer most of k agree on is right.",
    )
    temperature: NonNegativeFloat = Field(0.6, description="Of the sampled answers.")
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: PositiveInt | None = Field(None, description="null: all tokens.")
    scorers: list[str] | None = Field(
        None,
        description="Right by which of evaluate.metrics; null: all that say right or wrong.",
    )

    def metrics_of(self, scorer: str) -> tuple[str, ...]:
        """The metrics that sampled answers may have by a scorer."""
        return sampled_metrics(scorer, self.pass_at, self.majority_at)
