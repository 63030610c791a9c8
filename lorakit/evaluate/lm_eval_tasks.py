"""Tasks of lm-eval (EleutherAI's evaluation harness) on the model in memory, base and tuned.

A task becomes a set like any other, `lm_eval/TASK`: each metric with its standard errors as lm-eval
computes them, and an interval of the difference (`lm_eval_comparison.py`).
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attached import adapter_disabled
from lorakit.data.named_sets import context_of
from lorakit.errors import RecipeError, RunError, in_one_line
from lorakit.evaluate.lm_eval_comparison import compared
from lorakit.evaluate.result import SetResult
from lorakit.recipe.sections.lm_eval import LmEvalSection

PREFIX = "lm_eval/"
NO_CONTEXT = 2048  # tokens, for models whose config states no limit, as in lm-eval's HFLM
# Resamples for the standard errors of metrics that have no formula; lm-eval's 100,000 take minutes.
BOOTSTRAP_ITERS = 1000

SEED, FEWSHOT_SEED = 0, 1234  # lm-eval's defaults

log = logging.getLogger(__name__)


def check_lm_eval(section: LmEvalSection) -> None:
    """Find before training what cannot be evaluated after it.

    Raises:
        RecipeError: lm-eval is not installed, or there is no folder or no task of that name.
    """
    if find_spec("lm_eval") is None:
        raise RecipeError(
            "evaluate.lm_eval is given, but lm-eval is not installed; pip install "
            "'lorakit[lm-eval]', or remove the section."
        )
    include = section.include_path
    if include is not None and not Path(include).expanduser().is_dir():
        raise RecipeError(
            f"evaluate.lm_eval.include_path {include!r} is no folder; name one with task YAML "
            "files."
        )
    known = _task_manager(include, tuple(section.tasks)).all_tasks
    unknown = [name for name in section.tasks if name not in known]
    if unknown:
        raise RecipeError(
            f"evaluate.lm_eval.tasks names {unknown}, which lm-eval does not have; possible: the "
            "names that `lm-eval ls tasks` lists, and those of the files in include_path. Fix them."
        )


@cache
def _task_manager(include: str | None, names: tuple[str, ...]) -> Any:
    """What knows the tasks. Lm-eval's own are some ten thousand files, which take many seconds to
    look through: they are left alone where the folder has all that are named."""
    from lm_eval.tasks import TaskManager

    folder = None if include is None else str(Path(include).expanduser())
    if folder is not None:
        local = TaskManager(include_path=folder, include_defaults=False)
        if set(names) <= set(local.all_subtasks):
            return local
    return TaskManager(include_path=folder)


def lm_eval_results(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    section: LmEvalSection,
    *,
    chat_template: str,
    stop_ids: Sequence[int],
    token_budget: int,
    packed: bool,
    seed: int,
) -> Iterator[dict[str, SetResult] | RunError]:
    """Run the tasks with the adapter off (base) and on (tuned), one after the other.

    Args:
        model: with an adapter attached and switched on.
        tokenizer: of the model.
        section: what to run.
        chat_template: Jinja source, used where `section.apply_chat_template` says so.
        stop_ids: further tokens that end an answer.
        token_budget: tokens of one forward pass.
        packed: whether the family may be packed.
        seed: of the resampling.

    Yields:
        For each of `section.tasks` {`lm_eval/TASK`: its comparison}, a group's tasks each for
        itself; or why lm-eval cannot run it, such as that its data are not there.

    Raises:
        RecipeError: see `check_lm_eval`.
    """
    check_lm_eval(section)

    def run(who: str, name: str) -> Mapping[str, Any]:
        from lorakit.evaluate.lm_eval_model import InMemoryLM

        lm = InMemoryLM(
            model,
            tokenizer,
            chat_template=chat_template,
            stop_ids=stop_ids,
            context=context_of(model.config) or NO_CONTEXT,
            token_budget=token_budget,
            packed=packed,
            description=f"lm-eval: {who}",
        )
        return _run(lm, section, name)

    for name in section.tasks:
        try:
            tuned = run("tuned", name)
            with adapter_disabled(model):
                base = run("base", name)
            found = {one: compared(base, tuned, one, seed) for one in tuned["samples"]}
        except Exception as error:  # noqa: BLE001 - a task is anybody's code, and may raise anything
            failure = RunError(
                f"lm-eval could not run {name}: {in_one_line(error)}. Look at the task, or remove "
                "it from evaluate.lm_eval.tasks."
            )
            log.warning("%s", failure)
            yield failure
        else:
            yield {f"{PREFIX}{one}": result for one, result in found.items()}


def _run(lm: Any, section: LmEvalSection, name: str) -> Mapping[str, Any]:
    """What `lm_eval.simple_evaluate` does, without its look at the machine (10 s of subprocesses)
    and without its pool of processes, which would be copies of this one with all its weights."""
    from lm_eval.evaluator import evaluate

    manager = _task_manager(section.include_path, tuple(section.tasks))
    with _seeded(), _environment("DISABLE_MULTIPROC", "1"):
        loaded = manager.load([name])
        _set_fewshot(loaded["tasks"].values(), section)
        found = evaluate(
            lm=lm,
            task_dict=loaded,
            limit=section.limit,
            bootstrap_iters=BOOTSTRAP_ITERS,
            apply_chat_template=section.apply_chat_template,
            fewshot_as_multiturn=section.apply_chat_template,
        )
    assert found is not None  # only other ranks than the first get nothing
    return dict(found)


def _set_fewshot(tasks: Iterable[Any], section: LmEvalSection) -> None:
    """Examples in the prompt, as `lm_eval.simple_evaluate` sets them."""
    for task in tasks:
        own = task.get_config("num_fewshot")
        if section.num_fewshot is not None and own != 0:  # 0 says that the task takes none
            task.set_config(key="num_fewshot", value=section.num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)


@contextmanager
def _seeded() -> Iterator[None]:
    """Inside, Python's and numpy's generators start from lm-eval's own seeds: some tasks shuffle
    their documents or options with them. After it they go on where the caller had them."""
    before, numpys = random.getstate(), np.random.get_state()
    random.seed(SEED)
    np.random.seed(FEWSHOT_SEED)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpys)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Inside, the environment variable has this value."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
