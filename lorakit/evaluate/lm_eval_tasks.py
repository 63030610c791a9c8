"""Tasks of lm-eval (EleutherAI's evaluation harness) on the model in memory, base and tuned.

A task becomes a set like any other, `lm_eval/TASK`: each metric with its standard errors as lm-eval
computes them, and an interval of the difference. Where lm-eval reports the mean of a number per
document (or, for perplexities, of words and bytes) that interval is paired, since both models
answer the same documents; elsewhere it follows from the two standard errors, or is not known.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attached import adapter_disabled
from lorakit.data.named_sets import context_of
from lorakit.errors import RecipeError, RunError, in_one_line
from lorakit.evaluate.result import SetResult
from lorakit.evaluate.statistics import (
    MIN_EXAMPLES,
    TOO_FEW,
    Comparison,
    Verdict,
    central_interval,
    resampled_means,
    verdict_of_change,
)
from lorakit.recipe.sections.lm_eval import LmEvalSection

PREFIX = "lm_eval/"
NO_CONTEXT = 2048  # tokens, for models whose config states no limit, as in lm-eval's HFLM
# Resamples for the standard errors of metrics that have no formula; lm-eval's 100,000 take minutes.
BOOTSTRAP_ITERS = 1000


def _same(mean: Any) -> Any:
    return mean


def _perplexity(mean: Any) -> Any:
    return np.exp(-mean)


def _bits(mean: Any) -> Any:
    return -mean / math.log(2)


# What lm-eval makes of a weighted mean log-likelihood; of all else it reports the mean itself.
OF_MEAN: dict[str, Callable[[Any], Any]] = {
    "word_perplexity": _perplexity,
    "byte_perplexity": _perplexity,
    "bits_per_byte": _bits,
}
SEED, FEWSHOT_SEED = 0, 1234  # lm-eval's defaults
NORMAL_95 = 1.959963984540054  # the quantile of the normal distribution for two-sided 95 %


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
) -> dict[str, SetResult]:
    """Run the tasks with the adapter off (base) and on (tuned).

    Args:
        model: with an adapter attached and switched on.
        tokenizer: of the model.
        section: what to run.
        chat_template: Jinja source, used where `section.apply_chat_template` says so.
        stop_ids: further tokens that end an answer.
        token_budget: tokens of one forward pass.
        packed: whether the family may be packed.
        seed: of the resampling.

    Returns:
        {`lm_eval/TASK`: its comparison}, a group's tasks each for itself.

    Raises:
        RecipeError: see `check_lm_eval`.
        RunError: lm-eval cannot run a task, such as one whose data are not there.
    """
    check_lm_eval(section)

    def run(who: str) -> Mapping[str, Any]:
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
        return _run(lm, section)

    try:
        tuned = run("tuned")
        with adapter_disabled(model):
            base = run("base")
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise RunError(
            f"lm-eval could not run {', '.join(section.tasks)}: {in_one_line(error)}. Look at the "
            "task, or remove it from evaluate.lm_eval.tasks; what was trained is kept."
        ) from error
    return {f"{PREFIX}{name}": compared(base, tuned, name, seed) for name in tuned["samples"]}


def _run(lm: Any, section: LmEvalSection) -> Mapping[str, Any]:
    """What `lm_eval.simple_evaluate` does, without its look at the machine (10 s of subprocesses)
    and without its pool of processes, which would be copies of this one with all its weights."""
    from lm_eval.evaluator import evaluate

    # Lm-eval's own seeds: some tasks shuffle their documents or options with these generators.
    random.seed(SEED)
    np.random.seed(FEWSHOT_SEED)
    manager = _task_manager(section.include_path, tuple(section.tasks))
    loaded = manager.load(list(section.tasks))
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        if section.num_fewshot is not None and own != 0:  # 0 says that the task takes none
            task.set_config(key="num_fewshot", value=section.num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    with _environment("DISABLE_MULTIPROC", "1"):
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


def compared(base: Mapping[str, Any], tuned: Mapping[str, Any], task: str, seed: int) -> SetResult:
    """The comparison of one task; the metric that lm-eval names first decides."""
    counts = tuned["n-samples"][task]
    metrics = {}
    for key, value in tuned["results"][task].items():
        name, _, filtered = key.partition(",")
        if filtered and not name.endswith("_stderr") and _is_number(value):
            title = name if filtered == "none" else f"{name}, {filtered}"
            metrics[title] = _metric(base, tuned, task, key, counts["effective"], seed)
    if not metrics:
        raise RunError(
            f"lm-eval's task {task} has no metric that is a number. Remove it from "
            "evaluate.lm_eval.tasks."
        )
    primary = next(iter(metrics))
    change = metrics[primary]
    shots, version = tuned["n-shot"].get(task, 0), tuned["versions"].get(task)
    of = f"; version {version:g} of the task" if _is_number(version) else ""
    notes = [f"{shots} {'example' if shots == 1 else 'examples'} in the prompt{of}"]
    if counts["effective"] < counts["original"]:
        notes.append(f"the first {counts['effective']} of {counts['original']} documents")
    if not change.enough:
        notes.insert(0, f"{TOO_FEW}: a verdict needs {MIN_EXAMPLES}")
    unpaired = [name for name, one in metrics.items() if not one.is_finite]
    if unpaired:
        notes.append(f"no interval is known for {', '.join(unpaired)}")
    verdict: Verdict = "no difference"
    if change.enough and change.is_finite:
        verdict = verdict_of_change(change.losses)
    return SetResult(
        counts["effective"], counts["effective"], metrics, primary, verdict, None, tuple(notes)
    )


def _metric(
    base: Mapping[str, Any], tuned: Mapping[str, Any], task: str, key: str, count: int, seed: int
) -> Comparison:
    """One metric, paired where its value is a function of the mean of a number per document."""
    name, _, filtered = key.partition(",")
    better = tuned["higher_is_better"].get(task, {}).get(name) is not False
    before, after = (float(one["results"][task][key]) for one in (base, tuned))
    errors = tuple(
        _error(one["results"][task].get(f"{name}_stderr,{filtered}")) for one in (base, tuned)
    )
    found = [_per_document(one["samples"][task], name, filtered) for one in (base, tuned)]
    if found[0] is not None and found[1] is not None:
        paired = _paired(found[0], found[1], name, (before, after), better, seed)
        if paired is not None:
            return replace(paired, stderr=errors)
    # Of independent samples the variances add up: without pairs, wider than it need be.
    half = NORMAL_95 * math.hypot(*(math.nan if e is None else e for e in errors))
    change = after - before
    return Comparison(
        before, after, change, (change - half, change + half), count, better, stderr=errors
    )


def _paired(
    base_2E: np.ndarray,
    tuned_2E: np.ndarray,
    name: str,
    reported: tuple[float, float],
    better: bool,
    seed: int,
) -> Comparison | None:
    """The documents resampled once for both models; None where lm-eval's value is no such mean.

    Args:
        base_2E: see `_per_document`; its weights are those of tuned too.
    """
    value = OF_MEAN.get(name, _same)
    weight_E = base_2E[1]
    means = [one[0].sum() / weight_E.sum() for one in (base_2E, tuned_2E)]
    if not np.allclose([value(mean) for mean in means], reported, rtol=1e-9, atol=1e-12):
        return None
    # The differences are resampled, not the two means: equal values differ by exactly zero.
    mean_R, change_R = resampled_means(
        np.stack([base_2E[0], tuned_2E[0] - base_2E[0]]), weight_E, seed=seed
    )
    with np.errstate(over="ignore", invalid="ignore"):
        interval = central_interval(value(mean_R + change_R) - value(mean_R))
    before, after = reported
    return Comparison(before, after, after - before, interval, len(weight_E), better)


def _per_document(
    samples: Sequence[Mapping[str, Any]], name: str, filtered: str
) -> np.ndarray | None:
    """float64 (2, documents): what is summed, and its weight; None where there is no such number.

    Of a text's likelihood lm-eval keeps a pair, (log-likelihood, words or bytes).
    """
    mine = [one for one in samples if one["filter"] == filtered and name in one]
    values = [one[name] for one in sorted(mine, key=lambda one: one["doc_id"])]
    pairs = [value if isinstance(value, tuple | list) else (value, 1) for value in values]
    if not pairs or not all(len(pair) == 2 and all(map(_is_number, pair)) for pair in pairs):
        return None
    return np.array(pairs, np.float64).T


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float | np.integer | np.floating | np.bool_)


def _error(value: object) -> float | None:
    """A standard error; lm-eval writes "N/A" where it has none."""
    return float(value) if isinstance(value, int | float | np.floating) else None
