"""What evaluation needs from outside the package: looked for before anything is trained."""

from __future__ import annotations

from lorakit.evaluate.lm_eval_tasks import check_lm_eval
from lorakit.evaluate.win_rate import PairJudge
from lorakit.recipe import EvaluateSection


def check_outside(section: EvaluateSection, *, asks: bool) -> None:
    """See that lm-eval and its tasks, the judge's key and the judge itself are there.

    Args:
        asks: send the judge a word; else nothing leaves the machine.

    Raises:
        RecipeError: something is not there.
        EndpointError: the judge does not answer.
    """
    if section.lm_eval is not None:
        check_lm_eval(section.lm_eval)
    if section.judge is not None:
        judge = PairJudge.from_section(section.judge)
        judge.endpoint.key()
        if asks:
            judge.probe()
