"""What `evaluate.sampling` may not say.

Which scorers say right or wrong is not known here, where none is imported: see
`evaluate/sampling.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorakit.recipe.rules.fault import Fault, names_in, no_effect, unknown

if TYPE_CHECKING:
    from lorakit.recipe.sections.evaluate import EvaluateSection

PLACE = ("evaluate", "sampling")


def sampling_rules(evaluate: EvaluateSection, *, measures: bool) -> Iterator[Fault]:
    """The rules of sampled answers.

    Args:
        measures: whether there is a set to measure on.
    """
    sampling = evaluate.sampling
    if sampling is None:
        return
    scorers = [name for name in evaluate.metrics if name in names_in("tasks")]
    if not measures or not scorers:
        yield no_effect(PLACE, "nothing is answered", "name a set and a scorer in metrics")
    if sampling.temperature == 0:
        yield Fault(
            (*PLACE, "temperature"),
            "0 makes every sampled answer the greedy one, which evaluate.metrics score as it is; "
            "possible: above 0, such as 0.6",
        )
    if not sampling.pass_at and not sampling.majority_at:
        yield Fault(
            (*PLACE, "pass_at"),
            "and majority_at are empty, so that answers would be sampled for nothing; possible: "
            "[1] and more of either",
        )
    for name, numbers in (("pass_at", sampling.pass_at), ("majority_at", sampling.majority_at)):
        for index, k in enumerate(numbers):
            if k > sampling.num_samples:
                yield Fault(
                    (*PLACE, name, index),
                    f"{k} are more answers than evaluate.sampling.num_samples "
                    f"{sampling.num_samples}; possible: up to it",
                )
            if k in numbers[:index]:
                yield Fault((*PLACE, name, index), f"{k} is named twice; possible: each once")
    wanted = sampling.scorers or []
    for index, scorer in enumerate(wanted):
        if scorer not in scorers:
            yield unknown((*PLACE, "scorers", index), scorer, tuple(scorers))
        elif scorer in wanted[:index]:
            yield Fault((*PLACE, "scorers", index), f"{scorer!r} is named twice; possible: once")
    if sampling.scorers == []:
        yield Fault((*PLACE, "scorers"), f"is empty; possible: null for all, or some of {scorers}")
