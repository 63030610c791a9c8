"""Verdicts that are read together: p-values corrected by Holm, so that a long list of sets does not
show something by chance alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lorakit.evaluate.result import SetResult
from lorakit.evaluate.statistics import holm


def corrected(results: Mapping[str, SetResult]) -> dict[str, SetResult]:
    """The same results, each with its p-value corrected for all verdicts among them.

    A verdict itself stays as it is, at 95 % of its own; a note says where it does not survive.
    """
    tested = {name: one.p_value for name, one in results.items() if one.p_value is not None}
    values = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {name: _corrected(one, values.get(name), len(tested)) for name, one in results.items()}


def _corrected(one: SetResult, value: float | None, num_tests: int) -> SetResult:
    told = replace(one, p_value_corrected=value, num_tests=num_tests)
    if told.survives is not False or num_tests < 2:  # one alone has nothing to be corrected for
        return told
    note = (
        f"does not survive the correction for {num_tests} verdicts read together: p "
        f"{one.p_value:.3g}, corrected by Holm {value:.3g}"
    )
    return replace(told, notes=(*told.notes, note))
