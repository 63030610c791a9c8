"""What the numbers say, in sentences that need no statistics to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorakit.evaluate.answers import are_many_truncated
from lorakit.evaluate.statistics import TOO_FEW
from lorakit.report.evaluation_files import Change, SetEvaluation
from lorakit.report.files import RunFiles
from lorakit.report.words import (
    amount,
    capital,
    change,
    count,
    counted,
    interval,
    metric_name,
    p_words,
    set_name,
)

RETENTION = "retention"
TASK_SETS = ("in_domain", "out_of_domain")
# few: too few examples to tell, whatever the interval; far: a distance, which is no gain or loss.
Effect = Literal["better", "same", "worse", "few", "far"]
Mark = Literal["better", "same", "worse", "few", "far", "kept"]


@dataclass(frozen=True)
class SetVerdict:
    """The verdict of one set.

    Attributes:
        word: `better`, `no difference`, `worse`; of retention `kept`, `better`, `not kept`, ...;
            TOO_FEW of any.
        effect: which of the page's marks it gets.
        sentence: what it rests on.
    """

    name: str
    title: str
    word: str
    effect: Mark
    sentence: str
    notes: tuple[str, ...]


def effect_of(one: Change) -> Effect:
    """Which way the interval of a metric excludes zero, if it does and rests on enough examples.

    On retention only what is lost counts, but in the metric that decides: a scorer of form gains
    where the model answers general questions in the form of its task.
    """
    low, high = one.interval
    if not one.enough:
        return "few"
    if one.distance:
        return "far"
    if low is None or high is None or low <= 0 <= high:
        return "same"
    if (low > 0) != one.higher_is_better:
        return "worse"
    return "same" if one.only_losses else "better"


def set_verdicts(run: RunFiles) -> list[SetVerdict]:
    """One per evaluated set."""
    return [_set_verdict(name, one) for name, one in run.evaluation.items()]


def _set_verdict(name: str, one: SetEvaluation) -> SetVerdict:
    word: str = one.verdict
    effect: Mark = "same" if one.verdict == "no difference" else one.verdict
    primary = one.primary_change
    if primary is not None and not primary.enough:
        word, effect = TOO_FEW, "few"
    elif name == RETENTION and one.verdict == "no difference":
        word, effect = "kept", "kept"
    elif name == RETENTION and one.verdict == "worse":
        word = "not kept" if _lost_more(one) else "not shown to be kept"
    return SetVerdict(name, set_name(name), word, effect, _sentence(one), one.notes)


def _lost_more(one: SetEvaluation) -> bool:
    """Whether the whole interval lies beyond the margin: the loss is shown, not only possible."""
    primary = one.primary_change
    if primary is None or one.margin is None:
        return False
    low, high = primary.interval
    if low is None or high is None:
        return False
    return (-high if primary.higher_is_better else low) > one.margin


def _sentence(one: SetEvaluation) -> str:
    primary = one.primary_change
    if primary is None:
        return f"Its primary metric, {metric_name(one.primary)}, was not measured."
    better = "higher" if primary.higher_is_better else "lower"
    examples = one.examples if primary.examples is None else primary.examples
    drawn = one.available is not None and examples < one.available
    of = f", drawn from {count(one.available)}" if drawn else ""
    return (
        f"{capital(metric_name(one.primary))} {amount(primary.base)} \u2192 "
        f"{amount(primary.tuned)} ({better} is better), a difference of "
        f"{change(primary.difference)} with a 95 % interval of {interval(*primary.interval)}, on "
        f"{counted(examples, 'example')}{of}{_odds(one)}."
    )


def _odds(one: SetEvaluation) -> str:
    """The p-value of what the verdict claims, and what becomes of it among the others."""
    if one.p_value is None:
        return ""
    told = f"; {p_words(one.p_value)}"
    if one.margin is not None and one.verdict != "better":
        told += _of_margin(one)
    if one.correction is None or one.p_value_corrected is None or one.correction.tests < 2:
        return told
    tests = one.correction.tests
    return f"{told}, {p_words(one.p_value_corrected)} corrected for {tests} verdicts (Holm)"


def _of_margin(one: SetEvaluation) -> str:
    """What is unlikely by the p-value of retention."""
    if one.verdict == "no difference":
        return " for a loss of the margin or more"
    return f" for a loss {'within' if _lost_more(one) else 'of just'} the margin"


def headline(run: RunFiles) -> str:
    """The run in one sentence."""
    if not run.evaluation:
        done = "Trained, not yet evaluated" if run.metrics else "Nothing was trained or evaluated"
        return f"{done}: there is no evaluation.json to draw a verdict from."
    by_name = {verdict.name: verdict for verdict in set_verdicts(run)}
    task = by_name.get("in_domain") or by_name.get("out_of_domain")
    if task is None:
        start = "What the adapter does for its task was not measured"
    elif task.effect == "few":
        start = "Too few examples tell what the adapter does for its task"
    else:
        start = {
            "better": "The adapter is better than its base at the task",
            "same": "The adapter shows no difference from its base at the task",
            "worse": "The adapter is worse than its base at the task",
        }[task.effect]
        other = by_name.get("out_of_domain")
        if other is not None and other is not task:
            start += _other_rows(task, other)
    told = f"{start}{_truncated(run, although=task is not None and task.effect == 'better')}"
    return f"{told}{_retained(by_name.get(RETENTION))}."


def _truncated(run: RunFiles, *, although: bool) -> str:
    """That answers do not stop, which a better score may hide: whoever serves such a model sees
    nothing else."""
    sets = [run.evaluation[name].truncated for name in TASK_SETS if name in run.evaluation]
    found = [one for one in sets if one is not None]
    answers, tuned = sum(one.answers for one in found), sum(one.tuned for one in found)
    if not are_many_truncated(tuned, answers):
        return ""
    return (
        f", {'although' if although else 'and'} {count(tuned)} of its "
        f"{counted(answers, 'answer')} did not stop within evaluate.max_new_tokens"
    )


def _other_rows(task: SetVerdict, other: SetVerdict) -> str:
    if other.effect == "few":
        return " in-domain, too few examples tell about out-of-domain"
    if other.effect == task.effect:
        return ", in-domain and out-of-domain"
    told = {"better": "better", "same": "no different", "worse": "worse"}[other.effect]
    return f" in-domain, {told} out-of-domain"


def _retained(kept: SetVerdict | None) -> str:
    if kept is None:
        return "; what it forgot was not measured"
    if kept.effect in {"better", "kept"}:
        return ", and it kept what the base could do"
    if kept.effect == "few":
        return "; too few retention examples tell what it forgot"
    if kept.word == "not shown to be kept":
        return ", but it is not shown that it kept what the base could do"
    return ", but it lost more than allowed of what the base could do"
