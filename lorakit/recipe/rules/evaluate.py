"""What `evaluate` may not say, but for the judge and sampled answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import regex

from lorakit.recipe.metric_names import CHOICES, KL, LOSSES, WIN_RATE
from lorakit.recipe.rules.data import source_rules
from lorakit.recipe.rules.fault import Fault, is_given, names_in, no_effect, unknown
from lorakit.recipe.rules.judge import judge_rules
from lorakit.recipe.rules.sampling import sampling_rules
from lorakit.recipe.sections.evaluate import EVALUATION_SETS

if TYPE_CHECKING:
    from lorakit.recipe.sections.evaluate import EvaluateSection
    from lorakit.recipe.sections.recipe import Recipe

METRICS = (*LOSSES, KL, *CHOICES, WIN_RATE)  # and every scorer of tasks/
NEEDED = {"regex": "a pattern such as '\\d+ mg'", "json_schema": "a file with a JSON schema"}


def evaluate_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the evaluate section, its judge and sampled answers included."""
    evaluate = recipe.evaluate
    named = {name: getattr(evaluate, name) for name in EVALUATION_SETS}
    for name, value in named.items():
        yield from source_rules(("evaluate", name), value, weighted=False)
    measured = {name for name, value in named.items() if value is not None}
    if recipe.data.validation is not None:
        measured.add("in_domain")
    if recipe.data.hold_out_topics is not None:
        measured.add("out_of_domain")
    yield from _metrics(recipe)
    yield from _variants(evaluate.variants, has_in_domain="in_domain" in measured)
    yield from judge_rules(recipe)
    yield from sampling_rules(evaluate, measures=bool(measured))
    if not measured:
        for name in ("metrics", "primary", "max_examples"):
            if is_given(evaluate, name):
                yield no_effect(
                    ("evaluate", name), "no set to evaluate on is named", "set evaluate.in_domain"
                )
    elif isinstance(evaluate.primary, dict):
        for name in evaluate.primary:
            if name in EVALUATION_SETS and name not in measured:
                yield no_effect(
                    ("evaluate", "primary", name), f"evaluate.{name} is not set", "set it"
                )
    answered = measured and set(evaluate.metrics) - {*LOSSES, KL, *CHOICES}
    for name in ("max_generated", "max_new_tokens", "max_batch"):
        if is_given(evaluate, name) and not answered:
            yield no_effect(
                ("evaluate", name), "nothing is answered", "name a set and a scorer in metrics"
            )
    if evaluate.retention is None and is_given(evaluate, "margin"):
        yield no_effect(("evaluate", "margin"), "evaluate.retention is not set", "set it")


def _variants(variants: list[str], *, has_in_domain: bool) -> Iterator[Fault]:
    possible = names_in("data/variants")
    for index, name in enumerate(variants):
        if name not in possible:
            yield unknown(("evaluate", "variants", index), name, possible)
        elif name in variants[:index]:
            yield Fault(("evaluate", "variants", index), f"{name!r} is named twice; remove one")
    if variants and not has_in_domain:
        yield no_effect(
            ("evaluate", "variants"), "evaluate.in_domain is not set", "set it or data.validation"
        )


def _metrics(recipe: Recipe) -> Iterator[Fault]:
    evaluate = recipe.evaluate
    possible = (*METRICS, *names_in("tasks"))
    for index, metric in enumerate(evaluate.metrics):
        if metric not in possible:
            yield unknown(("evaluate", "metrics", index), metric, possible)
    named = [metric for metric in evaluate.metrics if metric in possible]
    usable = tuple(dict.fromkeys(["loss", *named, *_sampled(evaluate)]))
    yield from _distance(evaluate)
    if isinstance(evaluate.primary, str):
        if evaluate.primary not in (*usable, KL):
            yield _not_measured(("evaluate", "primary"), evaluate.primary, usable)
    else:
        for name, metric in evaluate.primary.items():
            if name not in EVALUATION_SETS:
                yield unknown(("evaluate", "primary", name), name, EVALUATION_SETS)
            elif metric not in usable and metric != KL:
                yield _not_measured(("evaluate", "primary", name), metric, usable)
    for option in ("regex", "json_schema"):
        given = getattr(evaluate, option) is not None
        if given and option not in evaluate.metrics:
            yield no_effect(
                ("evaluate", option), f"evaluate.metrics lacks {option}", "name it there"
            )
        if option in evaluate.metrics and not given:
            place = ("evaluate", "metrics", evaluate.metrics.index(option))
            yield Fault(
                place, f"{option!r} needs evaluate.{option}; set it; possible: {NEEDED[option]}"
            )
    if evaluate.regex is not None:
        try:
            regex.compile(evaluate.regex)
        except regex.error as error:
            yield Fault(
                ("evaluate", "regex"),
                f"{evaluate.regex!r} is no pattern: {error}; possible: Python's syntax",
            )


def _sampled(evaluate: EvaluateSection) -> Iterator[str]:
    """Metrics of sampled answers, by every scorer that may say right or wrong."""
    sampling = evaluate.sampling
    if sampling is None:
        return
    for name in evaluate.metrics if sampling.scorers is None else sampling.scorers:
        if name in names_in("tasks"):
            yield from sampling.metrics_of(name)


def _distance(evaluate: EvaluateSection) -> Iterator[Fault]:
    """KL to the base is measured on retention: elsewhere a change is what was asked for."""
    if KL in evaluate.metrics and evaluate.retention is None:
        place = ("evaluate", "metrics", evaluate.metrics.index(KL))
        yield no_effect(place, "it is measured on evaluate.retention, which is not set", "set it")
    primary = evaluate.primary
    named = {"": primary} if isinstance(primary, str) else primary
    for name, metric in named.items():
        if metric == KL and name != "retention":
            yield Fault(
                ("evaluate", "primary", *([name] if name else [])),
                f"{KL!r} is a distance from the base and measured on retention alone; "
                f"possible for it: {{retention: {KL}}}",
            )


def _not_measured(path: tuple[str | int, ...], metric: str, usable: tuple[str, ...]) -> Fault:
    return Fault(path, f"{metric!r} is not among evaluate.metrics; possible: {', '.join(usable)}")
