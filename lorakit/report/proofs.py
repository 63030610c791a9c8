"""What else a run proves, in sentences: other wordings, over-fitting, memorisation, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorakit.evaluate.statistics import MIN_EXAMPLES, TOO_FEW
from lorakit.report.evaluation_files import SetEvaluation
from lorakit.report.order import in_order
from lorakit.report.proof_files import (
    AgainstReferences,
    Calibration,
    CopiedRun,
    Memorisation,
    MetricLoss,
    Overfitting,
    Shift,
    ValidationLosses,
)
from lorakit.report.verdicts import Effect
from lorakit.report.words import (
    amount,
    capital,
    change,
    count,
    counted,
    interval,
    metric_name,
    set_name,
    share,
)

# Of what was gained on trained rows, less than this share lost elsewhere is called slight.
SLIGHT = 0.1


@dataclass(frozen=True)
class Said:
    """A sentence with the mark it gets."""

    effect: Effect
    sentence: str


@dataclass(frozen=True)
class VariantSaid:
    """What a set loses in other words."""

    title: str
    said: Said
    metrics: dict[str, MetricLoss]


@dataclass(frozen=True)
class SetSaid:
    """What is said about one set, and the numbers behind it."""

    title: str
    said: Said
    shown: list[CopiedRun]


def effect_of_change(
    bounds: tuple[float, float], *, higher_is_better: bool, examples: int | None = None
) -> Effect:
    """Which way an interval excludes zero, if it rests on enough examples.

    Args:
        examples: that it rests on; None: not known, or enough.
    """
    if examples is not None and examples < MIN_EXAMPLES:
        return "few"
    low, high = bounds
    if low <= 0 <= high:
        return "same"
    return "better" if (low > 0) == higher_is_better else "worse"


def variants_said(evaluation: Mapping[str, SetEvaluation]) -> list[VariantSaid]:
    """One for each variant of a set, by the metric that decides the set."""
    found = []
    for name, one in evaluation.items():
        if one.variant is None or not one.variant.metrics:
            continue
        metrics = {key: one.variant.metrics[key] for key in in_order(one.variant.metrics)}
        metric = one.primary if one.primary in metrics else next(iter(metrics))
        said = _variant_sentence(one.variant.how, metric, metrics[metric])
        found.append(VariantSaid(set_name(name), said, metrics))
    return found


def _variant_sentence(how: str, metric: str, one: MetricLoss) -> Said:
    if one.examples < MIN_EXAMPLES:
        return Said(
            "few",
            f"Asked {how}, {TOO_FEW} what the tuned model loses: {metric_name(metric)} "
            f"{amount(one.tuned.given)} \u2192 {amount(one.tuned.varied)} on "
            f"{counted(one.examples, 'example')}.",
        )
    tuned = effect_of_change(one.tuned.interval, higher_is_better=one.higher_is_better)
    extra = effect_of_change(one.extra.interval, higher_is_better=one.higher_is_better)
    what = {
        "worse": "the tuned model loses",
        "same": "no loss of the tuned model shows",
        "better": "the tuned model gains",
    }[tuned]
    beside = {
        "worse": "It is more sensitive to that than its base, by ",
        "same": "That it is more or less sensitive to that than its base does not show: ",
        "better": "It is less sensitive to that than its base, by ",
    }[extra]
    beside += f"{change(one.extra.difference)} ({interval(*one.extra.interval)})."
    if one.higher_is_better and one.base.given < -one.tuned.difference:
        beside = f"Its base, at {amount(one.base.given)}, has not as much to lose."
    return Said(
        tuned,
        f"Asked {how}, {what}: {metric_name(metric)} {amount(one.tuned.given)} \u2192 "
        f"{amount(one.tuned.varied)}, {change(one.tuned.difference)} with a 95 % interval of "
        f"{interval(*one.tuned.interval)}, on {counted(one.examples, 'example')}. {beside}",
    )


def overfitting_said(one: Overfitting) -> list[Said]:
    """Whether what was gained carries over, and whether training went on for too long."""
    said = [_excess(one)]
    if one.validation is not None:
        said.append(_validation(one.validation))
    return said


def _excess(one: Overfitting) -> Said:
    seen, unseen = one.seen.gained, one.unseen.gained
    beside = f"{change(one.excess)} with a 95 % interval of {interval(*one.interval)}"
    if seen <= 0:
        return Said(
            "same",
            "Nothing was gained on the rows it was trained on (loss per token "
            f"{amount(one.seen.base)} \u2192 {amount(one.seen.tuned)}), so that there is nothing "
            "to carry over.",
        )
    gained = (
        f"the loss per token fell by {amount(seen)} on rows it was trained on and "
        f"{'by ' + amount(unseen) if unseen > 0 else 'rose by ' + amount(-unseen)} on unseen ones: "
        f"{beside}"
    )
    effect = effect_of_change(one.interval, higher_is_better=False)
    if effect == "same":
        return Said("same", f"No over-fitting shows: {gained}.")
    if effect == "better":
        return Said("better", f"No over-fitting: {gained}.")
    if unseen <= 0:
        return Said("worse", f"Learned by heart: {gained}.")
    lost = f"{share(one.excess, seen)} of the gain does not carry over"
    if one.excess < SLIGHT * seen:
        return Said("same", f"Slight over-fitting: {gained}. {lost}.")
    return Said("worse", f"Over-fitting: {gained}. {lost}.")


def _validation(one: ValidationLosses) -> Said:
    if one.best_step == one.last_step:
        return Said(
            "same",
            f"Validation loss was lowest at the end (step {count(one.last_step)}, "
            f"{amount(one.best)}): the last weights are the best.",
        )
    told = (
        f"Validation loss was lowest at step {count(one.best_step)} ({amount(one.best)}) and "
        f"{amount(one.last)} at the end (step {count(one.last_step)})"
    )
    if one.kept_step == one.best_step:
        return Said("same", f"{told}; the adapter has the best weights, not the last.")
    return Said(
        "worse",
        f"{told}; the adapter has the last weights. train.early_stopping_patience keeps the best.",
    )


def memorisation_said(evaluation: Mapping[str, SetEvaluation]) -> list[SetSaid]:
    """One for each answered set."""
    return [
        SetSaid(set_name(name), _memorised(one.memorisation), one.memorisation.shown)
        for name, one in evaluation.items()
        if one.memorisation is not None
    ]


def _memorised(one: Memorisation) -> Said:
    copied, run = one.copied, one.longest_run
    effects = [
        effect_of_change(n.interval, higher_is_better=False, examples=one.answers)
        for n in (copied, run)
    ]
    answers = f"{share(copied.tuned, 1)} of {counted(one.answers, 'answer')}"
    searched = counted(one.training_answers, "training row")
    if one.training_answers < one.training_available:
        searched += f" (of {count(one.training_available)})"
    said = (
        f"{answers} {'stand' if one.answers != 1 else 'stands'} word for word in one of {searched} "
        f"that answer another question; of the right answers {share(copied.references, 1)} do, of "
        f"the base's {share(copied.base, 1)}. The longest run of words that an answer shares with "
        f"any of them has {run.tuned:.1f} words on average, that of a right answer "
        f"{run.references:.1f} ({_more(run)})."
    )
    if not copied.tuned:  # a longer run alone is no copy
        return Said("same", f"Nothing is copied: {said}")
    if "few" in effects:
        return Said("few", f"{capital(TOO_FEW)} whether it copies more than the data: {said}")
    if "worse" in effects:
        return Said("worse", f"Copies more than the data repeat themselves: {said}")
    return Said("same", f"No copying beyond what the data repeat shows: {said}")


def _more(one: AgainstReferences) -> str:
    return f"{change(one.difference)}, 95 % interval {interval(*one.interval)}"


def calibration_said(evaluation: Mapping[str, SetEvaluation]) -> list[tuple[str, Said]]:
    """(title, what is said) of each set as it was given."""
    said = []
    for name, one in evaluation.items():
        if one.calibration is not None and one.variant is None:
            said.append((set_name(name), _calibrated(one.calibration, "trained position")))
        if one.choice_calibration is not None and one.variant is None:
            told = _calibrated(one.choice_calibration, "question")
            said.append((f"{set_name(name)}, multiple choice", told))
    return said


def _calibrated(one: Calibration, noun: str) -> Said:
    """By how far confidence and accuracy lie apart, whichever is higher."""
    shift = one.overconfidence
    effect = _effect_on_calibration(shift)
    word = {
        "same": "As well calibrated as its base, as far as shows",
        "worse": "Less well calibrated than its base",
        "better": "Better calibrated than its base",
        "few": f"{capital(TOO_FEW)} how well it is calibrated",
    }[effect]
    return Said(
        effect,
        f"{word}: it is {share(one.tuned.confidence, 1)} sure of its first choice and right in "
        f"{share(one.tuned.accuracy, 1)} of {counted(one.positions, noun)}, "
        f"{_sureness(shift.tuned)}; the base {share(one.base.confidence, 1)} and "
        f"{share(one.base.accuracy, 1)}, {_sureness(shift.base)}.",
    )


def _effect_on_calibration(shift: Shift) -> Effect:
    """Whether tuned is nearer to zero than the base, wherever in its interval the change lies."""
    if shift.examples is not None and shift.examples < MIN_EXAMPLES:
        return "few"
    if _points(shift.tuned) == _points(shift.base):  # as far as anybody is told
        return "same"
    lies = {abs(shift.base + change) - abs(shift.base) for change in shift.interval}
    low, high = shift.interval
    if low <= -shift.base <= high:  # the change may lead to zero, which is nearest
        lies.add(-abs(shift.base))
    return "better" if max(lies) < 0 else "worse" if min(lies) > 0 else "same"


def _points(excess: float) -> str:
    return f"{abs(100 * excess):.1f} points"


def _sureness(excess: float) -> str:
    points = _points(excess)
    return f"{points} too sure" if excess >= 0 else f"{points} not sure enough"
