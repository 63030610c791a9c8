"""Whether a recipe's sets hold enough examples for a verdict: said before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorakit import tasks
from lorakit.data.contract import Finding
from lorakit.data.named_sets import is_validation, title_of
from lorakit.data.prepare import Prepared
from lorakit.data.variants import source_and_variant
from lorakit.evaluate.before_after import RETENTION
from lorakit.evaluate.drawn import num_measured
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.paired_proportions import examples_to_show
from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.recipe.metric_names import CHOICES


def too_few_findings(
    sets: Mapping[str, Prepared],
    measured: Sequence[str],
    measures: Measures,
    stop_ids: Sequence[int],
) -> list[Finding]:
    """A warning for every set that is too small for a verdict, and for retention where it could
    not be shown to keep the margin even if nothing were lost.

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
        count = num_measured(sets, name, measures, stop_ids)
        told = _of_verdict(sets, name, count, measures)
        if told is not None:
            message = f"{title_of(sets, name)}: {_what_there_is(sets, name, count)}, but {told}"
            found.append(Finding("too-few-to-tell", "warning", message, ""))
    return found


def _of_verdict(
    sets: Mapping[str, Prepared], name: str, count: int, measures: Measures
) -> str | None:
    """What a verdict needs more, and what to do; None: there is enough."""
    if count < MIN_EXAMPLES:
        todo = _what_to_do(sets, name, measures, MIN_EXAMPLES)
        return f"a verdict needs {MIN_EXAMPLES}; {todo}"
    primary, margin = measures.primary_of(name), measures.margin
    if name != RETENTION or not _is_right_or_wrong(primary):
        return None
    needed, other = examples_to_show(margin), "decide retention by its loss"
    if needed is None:
        return (
            f"no number of them shows that a margin of 0 was kept by {primary}, which is right or "
            f"wrong; raise evaluate.margin, or {other}"
        )
    if count >= needed:
        return None
    return (
        f"that a margin of {margin:g} was kept by {primary}, which is right or wrong, takes "
        f"{needed:,} if none is lost; {_what_to_do(sets, name, measures, needed)}, raise "
        f"evaluate.margin, or {other}"
    )


def _is_right_or_wrong(metric: str) -> bool:
    return metric in CHOICES or (metric in tasks.names() and tasks.scorer(metric).IS_RIGHT_OR_WRONG)


def _what_there_is(sets: Mapping[str, Prepared], name: str, count: int) -> str:
    rows = len(sets[name].examples)
    told = f"{rows} {'row is' if rows == 1 else 'rows are'} there to measure"
    return told if count == rows else f"{told}, {count} of which would be"


def _what_to_do(sets: Mapping[str, Prepared], name: str, measures: Measures, needed: int) -> str:
    if len(sets[name].examples) < needed and is_validation(sets, name):
        return (
            "make data.validation a larger fraction or file, or name a file of its own as "
            f"evaluate.{name}"
        )
    if len(sets[name].examples) < needed:
        return f"name more rows as evaluate.{name}"
    scored = measures.primary_of(name) in measures.answered
    limits = {"max_examples": measures.max_examples}
    limits |= {"max_generated": measures.max_generated} if scored else {}
    low = [f"evaluate.{key}" for key, most in limits.items() if most and most < needed]
    return f"raise {' and '.join(low)}" if low else f"name rows with prompts as evaluate.{name}"
