"""What the demo claims to show, each claim held against what was measured on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorakit.evaluate.result import SetResult

# Sets whose answers must have the form and the content asked for.
PROVEN = ("in_domain", "out_of_domain")
MOST_BEFORE, LEAST_AFTER = 0.1, 0.9


@dataclass(frozen=True)
class Claim:
    """One sentence, and whether the numbers bear it out."""

    text: str
    holds: bool

    def __str__(self) -> str:
        return f"[{'holds' if self.holds else 'DOES NOT HOLD'}] {self.text}"


def claims(evaluation: Mapping[str, SetResult]) -> list[Claim]:
    """The demo's claims; what retention lost is said there, not judged here.

    Args:
        evaluation: with the metrics `loss`, `outline` and `content` of every set in `PROVEN`.
    """
    return [claim for name in PROVEN for claim in _claims_of(name, evaluation[name])]


def _claims_of(name: str, result: SetResult) -> Iterator[Claim]:
    form, loss = result.metrics["outline"], result.metrics["loss"]
    yield Claim(
        f"{name}: {form.base:.0%} of the base's answers have the sections asked for, in the order "
        f"asked for (at most {MOST_BEFORE:.0%})",
        form.base <= MOST_BEFORE,
    )
    yield Claim(
        f"{name}: {form.tuned:.0%} of the tuned model's do (at least {LEAST_AFTER:.0%})",
        form.tuned >= LEAST_AFTER,
    )
    own, (low, high) = _mean_content(result)
    yield Claim(
        f"{name}: answers have more words of their own reference than of other ones: token F1 "
        f"higher by {own:.3f} (95 % interval {low:.3f} to {high:.3f}, above 0)",
        low > 0,
    )
    low, high = loss.interval
    yield Claim(
        f"{name}: the loss of answers never trained on falls by {-loss.difference:.2f} (95 % "
        f"interval {-high:.2f} to {-low:.2f}, above 0)",
        high < 0,
    )


def _mean_content(result: SetResult) -> tuple[float, tuple[float, float]]:
    """The tuned model's score `content`, and the interval of its mean over the examples."""
    import numpy as np

    from lorakit.evaluate.statistics import central_interval, resampled_means

    scores = np.array([example.scores["content"][1] for example in result.answered])
    means = resampled_means(scores[None], np.ones(len(scores)))
    return float(scores.mean()), central_interval(means[0])
