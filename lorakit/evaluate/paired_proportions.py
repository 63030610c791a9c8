"""The interval of a difference between two columns of yes and no, where few examples differ.

Resampling knows only what was seen: where base and tuned agree on 20 examples of 20, every resample
says that nothing was lost, though one example of seven could be. Tango's score interval (Statistics
in Medicine 17, 1998, 891-908) asks which differences d make what was seen unlikely:

    z(d) = (gained - lost - n d) / sqrt(n (2 q + d - d^2))

with q the likeliest share of lost examples where the difference is d, the root of

    2 n q^2 + ((2 n - gained + lost) d - gained - lost) q - lost d (1 - d) = 0.

Of n examples that agree it reaches to z^2 / (n + z^2) on either side. Whether a difference is there
at all stays with resampling and McNemar's mid-p, which agree; how large it may be is the wider of
both. E examples, R resamples.
"""

from __future__ import annotations

from math import ceil, copysign, inf, sqrt
from statistics import NormalDist

import numpy as np

from lorakit.evaluate.statistics import CONFIDENCE, central_interval

_HALVINGS = 50  # of an interval of at most 2: exact to float64


def are_yes_or_no(*columns_E: np.ndarray) -> bool:
    """Whether every value is 0 or 1."""
    return bool(np.isin(columns_E, (0, 1)).all())


def interval_of_difference(
    base_E: np.ndarray,
    tuned_E: np.ndarray,
    change_R: np.ndarray,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """The interval of the mean of tuned - base, of scores of the same examples.

    Args:
        base_E, tuned_E: float64 (E,).
        change_R: float64 (R,), the resampled means of their difference.
    """
    low, high = central_interval(change_R, confidence)
    if not are_yes_or_no(base_E, tuned_E):
        return low, high
    gained, lost = int(np.sum(tuned_E > base_E)), int(np.sum(tuned_E < base_E))
    least, most = tango_interval(gained, lost, len(base_E), confidence)
    # Never across zero: that is where resampling and McNemar's test have decided.
    low = low if low > 0 >= least else min(low, least)
    high = high if high < 0 <= most else max(high, most)
    return low, high


def tango_interval(
    gained: int, lost: int, count: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Tango's interval of the share that was gained less the share that was lost.

    Args:
        gained, lost: of `count` examples, those that only tuned, and only base has.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return -_most(lost, gained, count, z), _most(gained, lost, count, z)


def examples_to_show(margin: float) -> int | None:
    """How many examples, of which none is lost, show that no more than `margin` is; None: no number
    of them shows a margin of zero."""
    if margin <= 0:
        return None
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return ceil(z**2 * (1 - min(margin, 1.0)) / margin)


def tango_p_value(gained: int, lost: int, count: int, difference: float) -> float:
    """Two-sided p-value of just that difference: below 0.05 where `tango_interval` excludes it."""
    return 2 * NormalDist().cdf(-abs(_z(gained, lost, count, difference)))


def _most(gained: int, lost: int, count: int, z: float) -> float:
    low, high = (gained - lost) / count, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _z(gained, lost, count, middle) > -z:
            low = middle
        else:
            high = middle
    return high


def _z(gained: int, lost: int, count: int, difference: float) -> float:
    """Falls with the difference; infinite where what was seen could not be."""
    linear = (2 * count - gained + lost) * difference - gained - lost
    constant = lost * difference * (1 - difference)
    root = sqrt(max(0.0, linear**2 + 8 * count * constant))
    likeliest = (root - linear) / (4 * count)
    variance = count * (2 * likeliest + difference - difference**2)
    excess = gained - lost - count * difference
    if variance <= 0:
        return copysign(inf, excess) if excess else 0.0
    return excess / sqrt(variance)
