"""What to do next: rules over a run's numbers, each of which says what it saw."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.lint.kinds import kinds
from lorakit.recipe import Recipe
from lorakit.report.curves import is_policy
from lorakit.report.files import RunFiles
from lorakit.report.verdicts import set_verdicts
from lorakit.report.words import amount, count, listed, set_name, share
from lorakit.train.watchers.validation_loss_rises import TREND

FEW_TRAINED = 0.05


@dataclass(frozen=True)
class Advice:
    """What was seen, and what to do about it."""

    saw: str
    do: str


def advice(run: RunFiles) -> list[Advice]:
    """Every rule that applies, those about the verdict first."""
    return [told for rule in RULES for told in rule(run)]


def _not_evaluated(run: RunFiles) -> Iterator[Advice]:
    if not run.evaluation:
        yield Advice(
            "There is no evaluation.json: whether the adapter is any better is not known.",
            "Finish the run (lorakit train with --resume), or evaluate it with the command below. "
            "The recipe must name evaluate.in_domain, or a data.validation to measure on.",
        )


def _warm_start(run: RunFiles) -> Iterator[Advice]:
    if run.recipe is not None and run.recipe.warm_start is not None and run.evaluation:
        before = shlex.quote(str(run.folder.warm_start.path))
        yield Advice(
            "Before is the base, after is warm start and rewards together.",
            f"How much of it the warm start did: lorakit evaluate {before}, then lorakit report "
            f"{before} {shlex.quote(str(run.folder.path))}.",
        )


def _task(run: RunFiles) -> Iterator[Advice]:
    effects = _effects(run)
    if effects.get("in_domain") == "same":
        yield Advice(
            "No difference was shown in-domain.",
            f"Train on more rows or for more epochs{_now(run, 'epochs')}, or raise "
            f"train.learning_rate{_now(run, 'rate')}. "
            "More evaluation rows make a smaller difference visible.",
        )
    if effects.get("in_domain") == "worse":
        yield Advice(
            "It is worse in-domain than its base.",
            f"Lower train.learning_rate{_now(run, 'rate')}, and look at what is trained with "
            "lorakit check: a wrong template or wrong trained turns do this.",
        )
    if effects.get("in_domain") == "better" and effects.get("out_of_domain") in {"same", "worse"}:
        yield Advice(
            "It is better on rows like its training rows, and not out-of-domain.",
            "Add rows on more topics and in more wordings; fewer epochs"
            f"{_now(run, 'epochs')} or a lower adapter.r learn the rows less by heart.",
        )


def _retention(run: RunFiles) -> Iterator[Advice]:
    if not run.evaluation:
        return
    effects = _effects(run)
    if "retention" not in effects:
        yield Advice(
            "What the adapter forgot was not measured.",
            "Name rows of what the base must still do as evaluate.retention.",
        )
    if effects.get("retention") == "worse":
        yield Advice(
            "Retention was not shown to stay within its margin.",
            f"Lower train.learning_rate{_now(run, 'rate')}, train for fewer epochs"
            f"{_now(run, 'epochs')}, or mix general rows into data.train (10 to 20 % of them is a "
            "usual start).",
        )


def _few_examples(run: RunFiles) -> Iterator[Advice]:
    few = [
        set_name(name).lower()
        for name, one in run.evaluation.items()
        if one.primary_change is not None and not one.primary_change.enough
    ]
    if few:
        yield Advice(
            f"Under {MIN_EXAMPLES} examples were measured: {listed(few)}.",
            f"Name larger sets: under {MIN_EXAMPLES} examples no verdict is given, and a few "
            "hundred show differences that matter.",
        )


def _seen(run: RunFiles) -> Iterator[Advice]:
    """What was seen while it trained; the page says under Training what it was."""
    for one in run.seen:
        about = kinds().get(one.id)
        if about is not None:  # else a newer version has seen it
            yield Advice(f"{about.title} ({one.where}).", about.mend)


def _validation(run: RunFiles) -> Iterator[Advice]:
    points = [(line.step, line.validation_loss) for line in run.metrics if line.validation_loss]
    if len(points) < 2:
        return
    best_step, _ = min(points, key=lambda point: (point[1], point[0]))
    last_step, last = points[-1]
    if last_step == best_step and last < points[-2][1] * (1 - TREND):
        yield Advice(
            f"Validation loss was still falling at the end ({amount(points[-2][1])} to "
            f"{amount(last)}).",
            f"Train for more epochs{_now(run, 'epochs')}.",
        )


def _data(run: RunFiles) -> Iterator[Advice]:
    train = None if run.data is None else run.data.sets.get("train")
    if run.data is None or train is None:
        return
    found = {finding.id for finding in run.data.findings if finding.message.startswith("train: ")}
    if train.dropped and "rows-too-long" in found:
        yield Advice(
            f"{count(train.dropped)} of {count(train.read)} training rows were left out, some for "
            "their length.",
            f"Raise data.max_length (now {count(train.max_length)}) up to the model's context, or "
            "split the long rows.",
        )
    elif train.dropped:
        yield Advice(
            f"{count(train.dropped)} of {count(train.read)} training rows were left out.",
            "See the findings under Data for why and where.",
        )
    if train.trained_tokens < FEW_TRAINED * train.tokens and not is_policy(run.metrics):
        yield Advice(
            f"Only {share(train.trained_tokens, train.tokens)} of the training tokens are trained.",
            "Most of the time goes into reading prompts: shorten them, or check data.trained.",
        )


def _all_well(run: RunFiles) -> Iterator[Advice]:
    effects = _effects(run)
    kept = effects.get("retention") in {"better", "kept"}
    if (
        kept
        and effects.get("in_domain") == "better"
        and effects.get("out_of_domain", "better") == "better"
    ):
        yield Advice(
            "Better at the task, and what the base could do was kept.",
            "Read the worst answers above, talk to the model, then merge it for serving.",
        )


def _effects(run: RunFiles) -> dict[str, str]:
    """{set: its mark}."""
    return {one.name: one.effect for one in set_verdicts(run)}


def _now(run: RunFiles, what: str) -> str:
    """The recipe's own value in brackets, where there is a recipe."""
    if run.recipe is None:
        return ""
    return f" ({_CURRENT[what](run.recipe)})"


def _epochs(recipe: Recipe) -> str:
    if recipe.train.max_steps is not None:
        return f"now max_steps {recipe.train.max_steps:,}"
    return f"now {recipe.train.num_train_epochs:g}"


_CURRENT: dict[str, Callable[[Recipe], str]] = {
    "epochs": _epochs,
    "rate": lambda recipe: f"now {recipe.train.learning_rate:g}",
}

Rule = Callable[[RunFiles], Iterator[Advice]]
RULES: tuple[Rule, ...] = (
    _not_evaluated,
    _warm_start,
    _task,
    _retention,
    _few_examples,
    _seen,
    _validation,
    _data,
    _all_well,
)
