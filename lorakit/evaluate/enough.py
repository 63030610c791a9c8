"""Whether a recipe's sets hold enough examples for a verdict: said before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorakit.data.contract import Finding
from lorakit.data.named_sets import is_validation, title_of
from lorakit.data.prepare import Prepared
from lorakit.data.variants import source_and_variant
from lorakit.evaluate.drawn import num_measured
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.statistics import MIN_EXAMPLES


def too_few_findings(
    sets: Mapping[str, Prepared],
    measured: Sequence[str],
    measures: Measures,
    stop_ids: Sequence[int],
) -> list[Finding]:
    """A warning for every set that is too small for a verdict.

    Args:
        sets: see `NamedSets.by_name`.
        measured: the names of those that get a verdict.
        measures: what is measured on them.
        stop_ids: tokens that end an answer.
    """
    found = []
    for name in measured:
        if source_and_variant(name) is not None:  # as many as its source, of which it is told
            continue
        count = num_measured(sets[name], name, measures, stop_ids)
        if count < MIN_EXAMPLES:
            message = (
                f"{title_of(sets, name)}: {_what_there_is(sets, name, count)}, but a verdict needs "
                f"{MIN_EXAMPLES}; {_what_to_do(sets, name, measures)}"
            )
            found.append(Finding("too-few-to-tell", "warning", message, ""))
    return found


def _what_there_is(sets: Mapping[str, Prepared], name: str, count: int) -> str:
    rows = len(sets[name].examples)
    told = f"{rows} {'row is' if rows == 1 else 'rows are'} there to measure"
    return told if count == rows else f"{told}, {count} of which would be"


def _what_to_do(sets: Mapping[str, Prepared], name: str, measures: Measures) -> str:
    if len(sets[name].examples) < MIN_EXAMPLES and is_validation(sets, name):
        return (
            "make data.validation a larger fraction or file, or name a file of its own as "
            f"evaluate.{name}"
        )
    if len(sets[name].examples) < MIN_EXAMPLES:
        return f"name more rows as evaluate.{name}"
    scored = measures.primary_of(name) in measures.answered
    limits = {"max_examples": measures.max_examples}
    limits |= {"max_generated": measures.max_generated} if scored else {}
    low = [f"evaluate.{key}" for key, most in limits.items() if most and most < MIN_EXAMPLES]
    return f"raise {' and '.join(low)}" if low else f"name rows with prompts as evaluate.{name}"
