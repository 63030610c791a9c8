"""Over-fitting: what was gained on rows that were trained on, and does not carry over to others.

With L the mean loss per trained token,

    excess = (L_tuned - L_base on unseen rows) - (L_tuned - L_base on seen rows)

is the generalization gap (training against test error, as in Goodfellow, Bengio and Courville,
"Deep Learning", 2016, section 5.2) less the gap that the base has, which never saw either: some
rows are harder than others. The two samples are independent, and so are their resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorakit.evaluate.statistics import central_interval, p_value, resampled_means
from lorakit.train.losses import ExampleLosses


@dataclass(frozen=True)
class ValidationLosses:
    """What validation saw during training.

    Attributes:
        kept_step: the step whose weights the adapter has.
    """

    best_step: int
    best: float
    last_step: int
    last: float
    kept_step: int


@dataclass(frozen=True)
class Overfitting:
    """Losses of base and tuned on seen and unseen rows.

    Attributes:
        seen, unseen: (base, tuned), mean per trained token in nats.
        source: which training rows the seen ones are of, such as a file.
        seen_examples, unseen_examples: how many.
        excess: see above; over zero: rows learned by heart.
        interval: of it, at 95 %.
        validation: None where nothing was validated.
    """

    seen: tuple[float, float]
    unseen: tuple[float, float]
    source: str
    seen_examples: int
    unseen_examples: int
    excess: float
    interval: tuple[float, float]
    p_value: float
    validation: ValidationLosses | None = None

    def to_json(self) -> dict[str, object]:
        """The shape of `overfitting` in a set of `evaluation.json`."""
        return {
            "seen": {
                "base": self.seen[0],
                "tuned": self.seen[1],
                "examples": self.seen_examples,
                "source": self.source,
            },
            "unseen": {
                "base": self.unseen[0],
                "tuned": self.unseen[1],
                "examples": self.unseen_examples,
            },
            "excess": self.excess,
            "interval": list(self.interval),
            "p_value": self.p_value,
            "validation": None if self.validation is None else vars(self.validation),
        }


def validation_losses(
    logged: Sequence[Mapping[str, Any]], *, keeps_best: bool
) -> ValidationLosses | None:
    """Best and last of the validations of a run; None where there was none.

    Args:
        logged: lines of `metrics.jsonl`.
        keeps_best: whether the best weights were put back at the end.
    """
    validated = [
        (int(line["step"]), float(line["validation_loss"]))
        for line in logged
        if "validation_loss" in line
    ]
    if not validated:
        return None
    best_step, best = min(validated, key=lambda point: (point[1], point[0]))
    last_step, last = validated[-1]
    kept = best_step if keeps_best else last_step
    return ValidationLosses(best_step, best, last_step, last, kept)


def measure_overfitting(
    seen: tuple[ExampleLosses, ExampleLosses],
    unseen: tuple[ExampleLosses, ExampleLosses],
    validation: ValidationLosses | None,
    *,
    source: str,
    seed: int,
) -> Overfitting | None:
    """Compare the gain on seen rows with that on unseen ones; None where a loss is no number.

    Args:
        seen: (base, tuned) losses of rows that were trained on.
        unseen: of rows like them that were not.
        validation: see `validation_losses`.
        source: which training rows the seen ones are of.
        seed: of the resampling.
    """
    if not all(np.isfinite(one.mean) for one in (*seen, *unseen)):
        return None
    # Another seed: the two samples have nothing to do with each other.
    seen_R, unseen_R = _changes(*seen, seed=seed + 1), _changes(*unseen, seed=seed)
    count = min(len(seen_R), len(unseen_R))
    excess_R = unseen_R[:count] - seen_R[:count]
    (seen_base, seen_tuned), (base, tuned) = (
        (before.mean, after.mean) for before, after in (seen, unseen)
    )
    return Overfitting(
        (seen_base, seen_tuned),
        (base, tuned),
        source,
        len(seen[0].nll),
        len(unseen[0].nll),
        (tuned - base) - (seen_tuned - seen_base),
        central_interval(excess_R),
        p_value(excess_R),
        validation,
    )


def _changes(base: ExampleLosses, tuned: ExampleLosses, *, seed: int) -> np.ndarray:
    (change_R,) = resampled_means((tuned.nll - base.nll)[None], base.weight, seed=seed)
    return change_R
