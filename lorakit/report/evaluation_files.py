"""Shapes of evaluation.json and answers.jsonl, as the report reads them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from lorakit.evaluate.statistics import MIN_EXAMPLES, Verdict
from lorakit.report.order import Told
from lorakit.report.part import Part
from lorakit.report.proof_files import (
    Calibration,
    Memorisation,
    Overfitting,
    Truncated,
    Variant,
)


class Change(Part):
    """One metric before and after; None: not a finite number."""

    base: float | None
    tuned: float | None
    difference: float | None
    interval: tuple[float | None, float | None]
    examples: int | None = None
    higher_is_better: bool = False
    distance: bool = False
    only_losses: bool = False  # a gain is no merit: of retention, where it does not decide
    stderr: tuple[float | None, float | None] = (None, None)
    # Of base and tuned alone, where answers were sampled.
    base_interval: tuple[float, float] | None = None
    tuned_interval: tuple[float, float] | None = None

    @property
    def enough(self) -> bool:
        """Whether anything can be concluded from so many examples."""
        return self.examples is None or self.examples >= MIN_EXAMPLES


class Forgotten(Part):
    """An example whose loss rose: mean per trained token, in nats."""

    index: int
    where: str
    text: str
    base: float
    tuned: float


class Correction(Part):
    """How many verdicts a p-value was corrected for."""

    tests: int


class SetEvaluation(Part):
    """One set of evaluation.json."""

    examples: int
    available: int | None = None
    metrics: Annotated[dict[str, Change], Told]
    primary: str = "loss"
    verdict: Verdict
    margin: float | None = None
    notes: tuple[str, ...] = ()
    forgotten: tuple[Forgotten, ...] = ()
    p_value: float | None = None
    p_value_corrected: float | None = None
    correction: Correction | None = None
    calibration: Calibration | None = None
    choice_calibration: Calibration | None = None
    overfitting: Overfitting | None = None
    memorisation: Memorisation | None = None
    variant: Variant | None = None
    truncated: Truncated | None = None

    @model_validator(mode="before")
    @classmethod
    def _every_metric_knows_its_set(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("metrics"), dict):
            return values
        decides = values.get("primary", "loss")
        counted = {
            name: {
                "examples": values.get("examples"),
                "only_losses": values.get("margin") is not None and name != decides,
            }
            | one
            if isinstance(one, dict)
            else one
            for name, one in values["metrics"].items()
        }
        return values | {"metrics": counted}

    @property
    def primary_change(self) -> Change | None:
        """The change that the verdict rests on; None where it was not measured."""
        return self.metrics.get(self.primary)


class Scores(Part):
    """One answer of each model, scored."""

    base: float
    tuned: float


class Answer(Part):
    """One line of answers.jsonl."""

    set: str
    index: int
    prompt: str
    reference: str
    base: str
    tuned: str
    scores: dict[str, Scores]
