"""What evaluation hands on: the comparison of a set, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lorakit.evaluate.statistics import ALPHA, TOO_FEW, Comparison, Verdict
from lorakit.train.losses import ExampleLosses

if TYPE_CHECKING:
    from lorakit.evaluate.judge import Scores


@dataclass(frozen=True)
class SampledAnswer:
    """One of several answers to the same question.

    Attributes:
        scores: {scorer: 1 or 0}.
    """

    text: str
    scores: dict[str, float]


@dataclass(frozen=True)
class AnsweredExample:
    """What base and tuned answered to one example: a line of `answers.jsonl`.

    Attributes:
        index: of the example in its set.
        prompt: what was given to the model, decoded, line breaks in the place of special tokens.
        reference: the right answer.
        scores: {metric: (base, tuned)}.
        samples: what base and tuned answered besides, sampled; None: nothing.
    """

    index: int
    prompt: str
    reference: str
    base: str
    tuned: str
    scores: dict[str, tuple[float, float]]
    samples: tuple[tuple[SampledAnswer, ...], tuple[SampledAnswer, ...]] | None = None

    def to_json(self, set_name: str) -> dict[str, object]:
        """The shape of a line of `answers.jsonl`."""
        more: dict[str, object] = {}
        if self.samples is not None:
            base, tuned = ([vars(one) for one in samples] for samples in self.samples)
            more["samples"] = {"base": base, "tuned": tuned}
        return {
            "set": set_name,
            "index": self.index,
            "prompt": self.prompt,
            "reference": self.reference,
            "base": self.base,
            "tuned": self.tuned,
            "scores": {
                metric: {"base": base, "tuned": tuned}
                for metric, (base, tuned) in self.scores.items()
            },
        } | more


@dataclass(frozen=True)
class Forgotten:
    """An example whose loss rose: mean per trained token, in nats.

    Attributes:
        index: of the example in its set.
        where: `file:line` of its row.
        text: how its prompt begins.
    """

    index: int
    where: str
    text: str
    base: float
    tuned: float


@dataclass(frozen=True)
class Measured:
    """The numbers per example that a set's comparison rests on.

    Attributes:
        indices: int64 (E,), which examples of the set were measured.
        base, tuned: their losses.
        kl: float64 (E,), weighted sums of KL(base || tuned); None: not measured.
        scores: {metric: of the answered examples, or of those with options}.
        notes: what else there is to know, beside what the verdict itself says.
    """

    indices: np.ndarray
    base: ExampleLosses
    tuned: ExampleLosses
    kl: np.ndarray | None = None
    scores: Mapping[str, Scores] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Proof(Protocol):
    """Something else that was measured of a set, with its shape in `evaluation.json`."""

    def to_json(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class SetResult:
    """The comparison of one set.

    Attributes:
        examples: measured ones, out of `available`.
        margin: how much the primary metric may lose; None: any change counts.
        notes: what a reader of the verdict has to know.
        same_as: the name of the other set whose rows these are, such as `validation`.
        answered: what the scorers' metrics rest on.
        forgotten: the examples that lost most, worst first.
        p_value: of the opposite of what the verdict claims: of no difference, or for retention
            that was kept or not of a loss of just the margin; None: too few examples, or numbers
            beyond any.
        p_value_corrected, num_tests: by Holm, for so many verdicts read together.
        proofs: `calibration`, `overfitting`, `memorisation`, `variant`, where measured.
        measured: what it was computed from; not in `evaluation.json`.
    """

    examples: int
    available: int
    metrics: dict[str, Comparison]
    primary: str
    verdict: Verdict
    margin: float | None
    notes: tuple[str, ...] = ()
    same_as: str | None = None
    answered: tuple[AnsweredExample, ...] = ()
    forgotten: tuple[Forgotten, ...] = ()
    p_value: float | None = None
    p_value_corrected: float | None = None
    num_tests: int = 0
    proofs: dict[str, Proof] = field(default_factory=dict)
    measured: Measured | None = field(default=None, repr=False, compare=False)

    @property
    def survives(self) -> bool | None:
        """Whether what the verdict claims holds after the correction; None: it claims nothing.

        For retention the claim is that the margin was kept, or that more was lost: "worse" because
        neither is shown claims nothing.
        """
        if self.p_value_corrected is None or not self._claims:
            return None
        return self.p_value_corrected < ALPHA

    @property
    def _claims(self) -> bool:
        if self.margin is None:
            return self.verdict != "no difference"
        return self.verdict != "worse" or self.metrics[self.primary].losses[0] > self.margin

    @property
    def told(self) -> str:
        """The verdict as people read it: from too few examples there is none."""
        return self.verdict if self.metrics[self.primary].enough else TOO_FEW

    def to_json(self) -> dict[str, object]:
        """The shape of `evaluation.json`."""
        return {
            "examples": self.examples,
            "available": self.available,
            "metrics": {name: comparison.to_json() for name, comparison in self.metrics.items()},
            "primary": self.primary,
            "verdict": self.verdict,
            "margin": self.margin,
            "notes": list(self.notes),
            "same_as": self.same_as,
            "forgotten": [vars(example) for example in self.forgotten],
            "p_value": self.p_value,
            "p_value_corrected": self.p_value_corrected,
            "survives_correction": self.survives,
            "correction": {"method": "holm", "tests": self.num_tests},
        } | {name: proof.to_json() for name, proof in self.proofs.items()}


def retention_in_words(metric: str, change: Comparison, margin: float) -> str:
    """Whether the margin was kept, and how sure that is."""
    low, high = change.losses
    allowed = f"{margin:g} was allowed"
    if high <= margin:
        most = f"{metric} is worse by at most {high:.4f}" if high > 0 else f"{metric} is not worse"
        return f"the margin was kept: {most}, {allowed}"
    if low > margin:
        return f"the margin was not kept: {metric} is worse by {low:.4f} or more, {allowed}"
    return (
        f"the margin was not shown to be kept: {metric} may be worse by up to {high:.4f}, "
        f"{allowed}; more examples would tell more"
    )
