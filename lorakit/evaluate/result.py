"""What evaluation hands on: the comparison of a set, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

from lorakit.evaluate.statistics import TOO_FEW, Comparison, Verdict


@dataclass(frozen=True)
class AnsweredExample:
    """What base and tuned answered to one example: a line of `answers.jsonl`.

    Attributes:
        index: of the example in its set.
        prompt: what was given to the model, decoded, without special tokens.
        reference: the right answer.
        scores: {metric: (base, tuned)}.
    """

    index: int
    prompt: str
    reference: str
    base: str
    tuned: str
    scores: dict[str, tuple[float, float]]

    def to_json(self, set_name: str) -> dict[str, object]:
        """The shape of a line of `answers.jsonl`."""
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
        }


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
class SetResult:
    """The comparison of one set.

    Attributes:
        examples: measured ones, out of `available`.
        margin: how much the primary metric may lose; None: any change counts.
        notes: what a reader of the verdict has to know.
        same_as: the name of the other set whose rows these are, such as `validation`.
        answered: what the scorers' metrics rest on.
        forgotten: the examples that lost most, worst first.
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
        }


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
