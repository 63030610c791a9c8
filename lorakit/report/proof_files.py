"""What sets of evaluation.json say beside before and after: the shapes of `calibration`,
`overfitting`, `memorisation` and `variant` (see the files of those names in evaluate/), and of
`truncated` (evaluate/answers.py)."""

from __future__ import annotations

from lorakit.report.part import Part


class Bin(Part):
    """Positions of similar confidence."""

    count: int
    confidence: float
    accuracy: float


class Reliability(Part):
    """How sure one model is, and how often it is right; `error` is the ECE."""

    error: float
    confidence: float
    accuracy: float
    bins: list[Bin]


class Shift(Part):
    """A number of base and tuned, and its change."""

    base: float
    tuned: float
    difference: float
    interval: tuple[float, float]
    examples: int | None = None


class Calibration(Part):
    """`calibration` of a set."""

    positions: int
    base: Reliability
    tuned: Reliability
    overconfidence: Shift


class Truncated(Part):
    """`truncated` of a set: of so many answers of each model those that did not stop."""

    answers: int
    base: int
    tuned: int


class Losses(Part):
    """Mean losses of some rows."""

    base: float
    tuned: float
    examples: int
    source: str | None = None

    @property
    def gained(self) -> float:
        return self.base - self.tuned


class ValidationLosses(Part):
    """Best and last validation, and whose weights were kept."""

    best_step: int
    best: float
    last_step: int
    last: float
    kept_step: int


class Overfitting(Part):
    """`overfitting` of a set."""

    seen: Losses
    unseen: Losses
    excess: float
    interval: tuple[float, float]
    validation: ValidationLosses | None = None


class AgainstReferences(Part):
    """A number of tuned answers, of their references and of the base's answers."""

    references: float
    base: float
    tuned: float
    difference: float
    interval: tuple[float, float]


class CopiedRun(Part):
    """A run of words of a tuned answer that stands in a training row."""

    index: int
    length: int
    total: int
    where: str
    text: str


class Memorisation(Part):
    """`memorisation` of a set."""

    answers: int
    training_answers: int
    training_available: int
    copied: AgainstReferences
    longest_run: AgainstReferences
    shown: list[CopiedRun]


class VariedMetric(Part):
    """A metric of one model with the prompts as given, and said otherwise."""

    given: float
    varied: float
    difference: float
    interval: tuple[float, float]


class Extra(Part):
    """How much more tuned changes than base."""

    difference: float
    interval: tuple[float, float]


class MetricLoss(Part):
    """What other prompts cost in one metric."""

    base: VariedMetric
    tuned: VariedMetric
    extra: Extra
    examples: int
    higher_is_better: bool


class Variant(Part):
    """`variant` of a set."""

    source: str
    name: str
    how: str
    metrics: dict[str, MetricLoss]
