"""The whole way on one page: recipe, data, base, adapter, training, evaluation, run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.inits import init
from lorakit.adapters.new_rows import refuse_frozen_rows, train_new_rows
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.from_recipe import load_base_of, token_ids_of
from lorakit.base.of_run import base_of_run, pinned, write_identity
from lorakit.base.stops import stop_ids_of
from lorakit.data.calibration import calibration_batches
from lorakit.data.facts import data_facts
from lorakit.data.named_sets import NamedSets, prepare_named_sets, rules_of
from lorakit.data.prepare import Prepared
from lorakit.evaluate.drawn import check_measurable
from lorakit.evaluate.evaluation import evaluate_sets, packs
from lorakit.evaluate.first import run_evaluation_first
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.outside import check_outside
from lorakit.evaluate.result import SetResult
from lorakit.files import write_json
from lorakit.lint.check import findings_of, report_findings
from lorakit.lint.facts import Facts
from lorakit.lint.hardware import hardware_of
from lorakit.lint.languages import forget_models
from lorakit.plan.blueprint import Workbench
from lorakit.plan.plan import plan
from lorakit.plan.rows import Sets
from lorakit.recipe import BaseSection, Recipe
from lorakit.recipe.warm_start import warm_start_recipe
from lorakit.report.page import write_report
from lorakit.run_folder import (
    RunFolder,
    dtype_of,
    find_run,
    finished_run,
    naming_resumption,
    record_measured,
    record_peaks,
    resume_command,
    write_recipe,
)
from lorakit.ship.tokenizer import copy_tokenizer, write_tokenizer
from lorakit.train.clock import Clock, PeakMemory
from lorakit.train.from_recipe import check_rewards_of, check_training, train_recipe
from lorakit.train.heap import trim_heap
from lorakit.train.memory import forget_peak, peak_bytes
from lorakit.train.metrics import read_metrics
from lorakit.train.outcome import TrainOutcome

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    run: Path
    training: TrainOutcome
    evaluation: dict[str, SetResult]
    memory: PeakMemory
    warm_start: TrainOutcome | None = None

    def to_json(self) -> dict[str, Any]:
        """For `lorakit train --json`; `warm_start` only where there was one."""
        before = {} if self.warm_start is None else {"warm_start": self.warm_start.summary()}
        return {
            "run": str(self.run),
            **before,
            "training": self.training.summary(),
            "evaluation": {name: result.to_json() for name, result in self.evaluation.items()},
            "memory_bytes": vars(self.memory),
        }


def finetune(recipe: Recipe, *, resume: bool = False, began: float | None = None) -> Outcome:
    """Go the whole way of a recipe.

    Args:
        recipe: see `load_recipe`.
        resume: go on from the newest whole checkpoint of the recipe's run folder.
        began: when the run began, on the monotonic clock; None: now.

    Raises:
        InputError: recipe, data, model or adapter cannot work; nothing was trained.
        RunError: training stopped for a reason the message names; checkpoints are kept.
    """
    clock = Clock(time.monotonic() if began is None else began)
    measures = Measures.from_section(recipe.evaluate, seed=recipe.train.seed)
    check_outside(recipe.evaluate, asks=True)
    check_rewards_of(recipe)
    run = find_run(recipe, resume=resume)
    base = pinned(run, recipe.base)
    model, tokenizer = load_base_of(base)
    loading_peak = peak_bytes(model.device)
    sets = prepare_named_sets(recipe, tokenizer, model.config)
    stop_ids = stop_ids_of(model, sets.train.stop_ids)
    # Not timed: that would take memory and seconds from the run it speaks of.
    bench = Workbench()
    make_plan = cache(partial(plan, recipe, sets=Sets.of(sets), is_loaded=True, bench=bench))
    # Not kept: the rules' texts of up to 30,000 rows are gone before training begins.
    found = findings_of(
        Facts(recipe, sets, tokenizer, model.config, hardware_of(recipe.base), make_plan, bench),
        measures,
        stop_ids,
        resumes=resume,
    )
    report_findings(found)
    check_measurable(sets.evaluation, measures, stop_ids)
    planned = make_plan()
    del make_plan, bench
    # What reading, linting and planning took goes before anything comes that stays.
    sets.forget_rows()
    forget_models()
    trim_heap()
    new_ids = token_ids_of(tokenizer, recipe.base)
    if recipe.adapter.path is None:
        attach_adapter(
            model,
            train_new_rows(recipe.adapter, model, new_ids),
            calibration=_calibration(recipe, sets.train),
            seed=recipe.train.seed,
        )
    else:
        refuse_frozen_rows(load_adapter(model, recipe.adapter.path), model, new_ids)
    check_training(model, recipe, sets, tuple(stop_ids))
    # From here on files are written: all that can be wrong with the input has been seen.
    run.path.mkdir(parents=True, exist_ok=True)
    limit = rules_of(recipe.data, model.config).max_length
    if not run.recipe.is_file():
        write_recipe(run, recipe)
    if not resume:
        write_identity(run, base)
    if not run.plan.is_file():
        write_json(run.plan, planned.to_json())
    if not run.data.is_file():
        write_json(run.data, data_facts(sets, tokenizer, found.findings, max_length=limit))
    if not run.tokenizer.is_dir():
        write_tokenizer(run, model, tokenizer, sets.train)
    clock.count("start", clock.rest())
    if recipe.train.worst_batch_first:
        run_evaluation_first(
            model,
            {name: one.examples for name, one in sets.evaluation.items()},
            sets.train.examples,
            recipe.evaluate,
            seed=recipe.train.seed,
            token_budget=recipe.train.forward_tokens,
            packed=packs(recipe, model.config),
        )
    trim_heap()
    forget_peak(model.device)  # what comes before is not the training's
    stops = tuple(stop_ids)
    with naming_resumption(run):
        before = _warm_start(
            model, tokenizer, recipe, sets, run, base, stop_ids=stops, resume=resume
        )
        training = train_recipe(
            model, tokenizer, recipe, sets, stop_ids=stops, run_dir=run.path, resume=resume
        )
    clock.count("training", training.seconds + (0.0 if before is None else before.seconds))
    clock.count("between_steps", clock.rest())
    # Of a resumed run the steps before may have taken more than this process did.
    logged = [line["peak_bytes"] for line in read_metrics(run.metrics)]
    training_peak = max(peak_bytes(model.device), *logged)
    record_peaks(run, {"loading_peak": loading_peak, "training_peak": training_peak})
    trim_heap()
    forget_peak(model.device)
    if resume:  # the same training; what is measured may be other than when it began
        write_recipe(run, recipe)
        write_json(run.data, data_facts(sets, tokenizer, found.findings, max_length=limit))
    if not run.base.is_file():  # of an older version: the loop has found the base to be the same
        write_identity(run, base)
    copy_tokenizer(run)
    save_adapter(model, run.adapter)
    try:
        evaluation, failure = evaluate_sets(
            model, tokenizer, recipe, sets, run, report=lambda: write_report(run.path), clock=clock
        )
    except KeyboardInterrupt:
        log.warning(
            "stopped while it was evaluated; the training is done, its adapter is in %s. `%s` "
            "evaluates it and ends the run.",
            run.adapter,
            resume_command(run),
        )
        raise
    clock.count("evaluation", clock.rest())
    predicted, most = record_peaks(run, {"evaluation_peak": peak_bytes(model.device)})
    memory = PeakMemory(predicted, most, on_cpu=model.device.type == "cpu")
    if not resume:
        record_measured(run, clock.measured())
    write_report(run.path)
    if failure is not None:
        raise failure
    return Outcome(run.path, training, evaluation, memory, before)


def _warm_start(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    sets: NamedSets,
    run: RunFolder,
    base: BaseSection,
    *,
    stop_ids: tuple[int, ...],
    resume: bool,
) -> TrainOutcome | None:
    """The run of SFT that comes first, in a folder of its own: the adapter goes on from there.

    A resumed run takes it up where it was left; at its end that is nothing but its weights.
    """
    stage = warm_start_recipe(recipe)
    if stage is None or sets.warm_start is None:
        return None
    own = run.warm_start
    goes_on = resume and own.path.is_dir()
    own.path.mkdir(parents=True, exist_ok=True)
    if not own.recipe.is_file():
        write_recipe(own, stage)
    if not own.base.is_file():
        write_identity(own, base)
    if not own.tokenizer.is_dir():
        write_tokenizer(own, model, tokenizer, sets.warm_start.train)
    outcome = train_recipe(
        model,
        tokenizer,
        stage,
        sets.warm_start,
        stop_ids=stop_ids,
        run_dir=own.path,
        resume=goes_on,
    )
    copy_tokenizer(own)
    save_adapter(model, own.adapter)
    return outcome


def _calibration(recipe: Recipe, train_set: Prepared) -> Iterator[dict[str, torch.Tensor]] | None:
    """Batches of the training data for an init that looks at some; None for all others."""
    if not init(recipe.adapter.init_lora_weights).NEEDS_CALIBRATION:
        return None
    return calibration_batches(
        train_set.examples,
        train_set.repeats,
        seed=recipe.train.seed,
        token_budget=recipe.train.forward_tokens,
    )


def evaluate_run(path: str | Path) -> dict[str, SetResult]:
    """Measure a finished run's adapter against its base again, and rewrite its evaluation.json
    and report.html.

    Raises:
        InputError: no run folder, or its base or data are gone, or the base is another one.
        RunError: the run has not finished, or the judge or lm-eval failed; all else is written.
    """
    run, recipe = finished_run(Path(path))
    check_outside(recipe.evaluate, asks=True)
    # As the run computed, not as this machine would by itself.
    model, tokenizer = load_base_of(base_of_run(run, recipe), dtype=getattr(torch, dtype_of(run)))
    load_adapter(model, run.adapter)
    sets = prepare_named_sets(recipe, tokenizer, model.config)
    results, failure = evaluate_sets(
        model, tokenizer, recipe, sets, run, report=lambda: write_report(run.path)
    )
    write_report(run.path)
    if failure is not None:
        raise failure
    return results
