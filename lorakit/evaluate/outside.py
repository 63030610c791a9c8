"""What evaluation needs from outside the package: looked for before anything is trained, and asked
last, when all else is measured and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lorakit.errors import LorakitError, RunError
from lorakit.evaluate.before_after import with_win_rate
from lorakit.evaluate.drawn import HeldOut
from lorakit.evaluate.lm_eval_tasks import check_lm_eval
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.proof import with_variants
from lorakit.evaluate.result import SetResult
from lorakit.evaluate.win_rate import PairJudge
from lorakit.jail.jail import jail
from lorakit.recipe import EvaluateSection
from lorakit.tasks import code


def check_outside(section: EvaluateSection, *, asks: bool) -> None:
    """See that lm-eval and its tasks, the judge's key and the judge itself, and for code the jail
    that it runs in, are there.

    Args:
        asks: send the judge a word; else nothing leaves the machine.

    Raises:
        InputError: something is not there.
        EndpointError: the judge does not answer.
    """
    if code.NAME in section.metrics:
        jail()
    if section.lm_eval is not None:
        check_lm_eval(section.lm_eval)
    if section.judge is not None:
        judge = PairJudge.from_section(section.judge)
        judge.endpoint.key()
        if asks:
            judge.probe()


def with_outside(
    results: Mapping[str, SetResult],
    sets: Mapping[str, HeldOut],
    measures: Measures,
    lm_eval: Iterator[Mapping[str, SetResult] | RunError],
    write: Callable[[Mapping[str, SetResult]], None],
    *,
    run: Path,
) -> tuple[dict[str, SetResult], RunError | None]:
    """The results with what the judge and lm-eval say of them, and why something is missing.

    Both may fail for reasons of their own, such as no network: what is there by then is written,
    and a failure of one, or of one task, does not keep the others from their say.

    Args:
        results: all else that was measured.
        sets: those that were measured.
        measures: what is measured.
        lm_eval: runs the tasks, and yields what is found, or why nothing is.
        write: keeps results.
        run: the run folder, for the words on how to go on.
    """
    found, failures = dict(results), []
    if measures.judge is not None:
        try:
            for name, one in results.items():
                found[name] = with_win_rate(one, measures, name=name)
        except LorakitError as error:
            failures.append(str(error))
        found = with_variants(found, sets, measures)
        write(found)
    try:
        for task in lm_eval:
            if isinstance(task, RunError):
                failures.append(str(task))
            else:
                found = {**found, **task}
                write(found)
    except LorakitError as error:
        failures.append(str(error))
    if not failures:
        return found, None
    return found, RunError(
        f"{' '.join(failures)} What was trained is kept, and all else is measured: see "
        f"evaluation.json and report.html in {run}. To go on: `lorakit evaluate {run}`, which asks "
        "the judge for no verdict twice."
    )
