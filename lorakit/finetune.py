"""The whole way on one page: recipe, data, base, adapter, training, evaluation, run folder."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.inits import init
from lorakit.adapters.new_rows import refuse_frozen_rows, train_new_rows
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.families import why_not_packed
from lorakit.base.from_recipe import load_base_of, load_tokenizer_of_base, token_ids_of
from lorakit.base.of_run import base_of_run, pinned, write_identity
from lorakit.base.stops import stop_ids_of
from lorakit.data.calibration import calibration_batches
from lorakit.data.contract import Finding
from lorakit.data.facts import data_facts
from lorakit.data.meanings import read_meanings
from lorakit.data.named_sets import (
    VALIDATION,
    NamedSets,
    context_of,
    is_validation,
    prepare_named_sets,
    rules_of,
    specs_of,
)
from lorakit.data.prepare import Prepared
from lorakit.errors import DataError, RunError
from lorakit.evaluate.compare import Measures, check_measurable, compare_sets
from lorakit.evaluate.correction import corrected
from lorakit.evaluate.enough import too_few_findings
from lorakit.evaluate.first import run_evaluation_first
from lorakit.evaluate.lm_eval_tasks import lm_eval_results
from lorakit.evaluate.outside import check_outside, with_outside
from lorakit.evaluate.overfitting import validation_losses
from lorakit.evaluate.proof import with_proofs
from lorakit.evaluate.result import SetResult
from lorakit.files import staged_folder, write_atomically, write_json
from lorakit.generate import Completion, SamplingSettings, generate
from lorakit.lint.facts import Facts
from lorakit.lint.hardware import hardware_of
from lorakit.lint.lint import Linted, lint, silenced_in_words, without_silenced
from lorakit.plan.plan import plan
from lorakit.plan.rows import Sets
from lorakit.recipe import Recipe
from lorakit.report.page import write_report
from lorakit.run_folder import RunFolder, dtype_of, find_run, finished_run, write_recipe
from lorakit.train.checks import check_sets
from lorakit.train.heap import trim_heap
from lorakit.train.loop import TrainOutcome, train
from lorakit.train.memory import forget_peak, peak_bytes
from lorakit.train.metrics import read_metrics
from lorakit.train.settings import LoopSettings

EVALUATION_SETS = ("in_domain", "out_of_domain", "retention")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    run: Path
    training: TrainOutcome
    evaluation: dict[str, SetResult]
    memory: PeakMemory

    def to_json(self) -> dict[str, Any]:
        """For `lorakit train --json`."""
        return {
            "run": str(self.run),
            "training": {
                "steps": self.training.steps,
                "stopped": self.training.stopped,
                "tokens": self.training.tokens,
                "trained_tokens": self.training.trained_tokens,
                "seconds": self.training.seconds,
                "loss": self.training.loss,
                "validation_loss": self.training.validation_loss,
                "optimizer": self.training.optimizer,
            },
            "evaluation": {name: result.to_json() for name, result in self.evaluation.items()},
            "memory_bytes": vars(self.memory),
        }


@dataclass
class Clock:
    """Where the time of a run goes.

    Attributes:
        began: on the monotonic clock.
        parts: {part: seconds}, under the names of the plan's parts.
    """

    began: float
    parts: dict[str, float] = field(default_factory=dict)

    def count(self, part: str, seconds: float) -> None:
        """Seconds more of a part."""
        self.parts[part] = self.parts.get(part, 0.0) + seconds

    def rest(self) -> float:
        """Seconds that no part has."""
        return time.monotonic() - self.began - sum(self.parts.values())

    def measured(self) -> dict[str, Any]:
        """As the plan has it: of the whole, generated answers are no part."""
        total = sum(seconds for part, seconds in self.parts.items() if part != "answers")
        by_part = {part: round(seconds, 3) for part, seconds in self.parts.items()}
        return {"seconds": round(total, 3), "seconds_by_part": by_part}


@dataclass(frozen=True)
class PeakMemory:
    """Bytes at the highest, as the plan had it and as it came (see `train/memory.py`)."""

    predicted: int
    measured: int

    def describe(self) -> str:
        """One line for people."""
        return (
            f"memory: predicted {self.predicted / 2**30:.2f} GiB, measured "
            f"{self.measured / 2**30:.2f} GiB ({self.predicted / max(1, self.measured) - 1:+.0%})"
        )


@dataclass(frozen=True)
class CheckReport:
    """What `check` found; nothing was trained.

    Attributes:
        sets: {train, validation, in_domain, ...: what became of its rows}; none when one of them
            is refused.
        findings: of all sets and of the recipe, errors first.
        tokenizer: to show examples with.
        silenced: {id: findings that the recipe silences}.
    """

    sets: dict[str, Prepared]
    findings: list[Finding]
    tokenizer: PreTrainedTokenizerBase
    silenced: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The shape of `lorakit check --json`; rows and tokens are those of the training set, and
        null when a set was refused."""
        rows = {
            name: {"read": one.read, "kept": one.kept, "dropped": one.dropped}
            for name, one in self.sets.items()
        }
        train = self.sets.get("train")
        return {
            "rows": rows.get("train"),
            "tokens": None if train is None else int(train.examples.lengths.sum()),
            "trained_tokens": None if train is None else int(train.examples.trained_lengths.sum()),
            "findings": [vars(finding) for finding in self.findings],
            "silenced": self.silenced,
            "sets": rows,
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
    run = find_run(recipe, resume=resume)
    base = pinned(run, recipe.base)
    model, tokenizer = load_base_of(base)
    loading_peak = peak_bytes(model.device)
    sets = prepare_named_sets(recipe, tokenizer, model.config)
    stop_ids = stop_ids_of(model, sets.train.stop_ids)
    # Not timed: that would take memory and seconds from the run it speaks of.
    make_plan = cache(lambda: plan(recipe, sets=Sets.of(sets), is_loaded=True))
    facts = Facts(
        recipe,
        sets,
        tokenizer,
        model.config,
        hardware_of(recipe.base),
        make_plan,
        is_loaded=True,
    )
    found = _findings(facts, measures, stop_ids, resumes=resume)
    _report_findings(found)
    check_measurable(sets.evaluation, measures, stop_ids)
    planned = make_plan()
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
    held_out = None if sets.validation is None else sets.validation.examples
    check_sets(model, {"train": sets.train.examples, "validation": held_out})
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
        _write_tokenizer(run, model, tokenizer, sets.train)
    clock.count("start", clock.rest())
    if recipe.train.worst_batch_first:
        run_evaluation_first(
            model,
            {name: one.examples for name, one in sets.evaluation.items()},
            sets.train.examples,
            recipe.evaluate,
            seed=recipe.train.seed,
            token_budget=recipe.train.forward_tokens,
            packed=_packs(recipe, model),
        )
    trim_heap()
    forget_peak(model.device)  # what reading, linting and planning took is not the training's
    training = train(
        model,
        sets.train.examples,
        LoopSettings.from_section(recipe.train, packing=recipe.data.packing),
        repeats=sets.train.repeats,
        validation=held_out,
        run_dir=run.path,
        resume=resume,
    )
    clock.count("training", training.seconds)
    clock.count("between_steps", clock.rest())
    measured = {"loading_peak": loading_peak, "training_peak": peak_bytes(model.device)}
    _record(run, {"memory_bytes": measured | {"peak": max(measured.values())}})
    trim_heap()
    forget_peak(model.device)
    if resume:  # the same training; what is measured may be other than when it began
        write_recipe(run, recipe)
        write_json(run.data, data_facts(sets, tokenizer, found.findings, max_length=limit))
    if not run.base.is_file():  # of an older version: the loop has found the base to be the same
        write_identity(run, base)
    _copy_tokenizer(run)
    save_adapter(model, run.adapter)
    evaluation, failure = _evaluate(model, tokenizer, recipe, sets, run, clock)
    clock.count("evaluation", clock.rest())
    measured["evaluation_peak"] = peak_bytes(model.device)
    memory = PeakMemory(planned.peaks.peak, max(measured.values()))
    _record(run, {"memory_bytes": measured | {"peak": memory.measured}})
    if not resume:
        _record(run, clock.measured())
    write_report(run.path)
    if failure is not None:
        raise failure
    return Outcome(run.path, training, evaluation, memory)


def _record(run: RunFolder, measured: dict[str, Any]) -> None:
    """Put what was measured beside what the plan of the run predicted."""
    values = json.loads(run.plan.read_text("utf-8"))
    values["measured"] = values.get("measured", {}) | measured
    write_json(run.plan, values)


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
    results, failure = _evaluate(model, tokenizer, recipe, sets, run)
    write_report(run.path)
    if failure is not None:
        raise failure
    return results


def check(recipe: Recipe) -> CheckReport:
    """Read and render every set of a recipe, and hold it to the data contract. Trains nothing.

    Data of which too little can be used are a finding `data-refused`, an error. The adapter
    is attached to a base without weights, so that targets that match nothing are found too.

    Raises:
        InputError: recipe, adapter, tokenizer or a file of the data cannot work.
    """
    measures = Measures.from_section(recipe.evaluate, seed=recipe.train.seed)
    check_outside(recipe.evaluate, asks=False)
    tokenizer, config = load_tokenizer_of_base(recipe.base)
    try:
        sets = prepare_named_sets(recipe, tokenizer, config)
        check_measurable(sets.evaluation, measures, sets.train.stop_ids)
    except DataError as error:
        _read_every_set(recipe, config)  # a file that cannot be read is no finding
        return CheckReport({}, [Finding("data-refused", "error", str(error), "")], tokenizer)
    make_plan = cache(lambda: plan(recipe, sets=Sets.of(sets)))
    make_plan()  # adapter and base must be possible, whatever the rules ask for
    facts = Facts(recipe, sets, tokenizer, config, hardware_of(recipe.base), make_plan)
    found = _findings(facts, measures, sets.train.stop_ids)
    return CheckReport(sets.by_name(), found.findings, tokenizer, found.silenced)


def _read_every_set(recipe: Recipe, config: PretrainedConfig) -> None:
    """Raise the DataError of the first set whose rows cannot be read."""
    rules = rules_of(recipe.data, config)
    named = [getattr(recipe.evaluate, name) for name in EVALUATION_SETS]
    for sources in (recipe.data.train, recipe.data.validation, *named):
        if sources is not None and not isinstance(sources, float):
            read_meanings(specs_of(sources), rules)


def _findings(
    facts: Facts, measures: Measures, stop_ids: Sequence[int], *, resumes: bool = False
) -> Linted:
    """What is to be said about rows and recipe, and about sets too small for a verdict."""
    sets = facts.sets
    few = too_few_findings(sets.by_name(), list(sets.evaluation), measures, stop_ids)
    linted = lint(facts, resumes=resumes)
    return without_silenced([*sets.findings(), *few, *linted], facts.recipe.check.silence)


def _report_findings(found: Linted) -> None:
    """Say what was found, and stop where training would be wrong."""
    for finding in found.findings:
        where = f" ({finding.where})" if finding.where else ""
        log.warning("%s: %s%s", finding.severity, finding.message, where)
    if found.silenced:
        log.warning("check.silence leaves out: %s", silenced_in_words(found.silenced))
    errors = [finding for finding in found.findings if finding.severity == "error"]
    if errors:
        listed = "; ".join(f"{finding.message} ({finding.where})" for finding in errors)
        raise DataError(f"training would be wrong: {listed}. `lorakit check` shows all of it.")


def _write_tokenizer(
    run: RunFolder,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_set: Prepared,
) -> None:
    """Keep what serving needs besides weights: the template that was trained with, and its stops.

    Models that never stop are those whose trained end-of-turn token the generation config lacks.
    """
    stops = stop_ids_of(model, train_set.stop_ids)
    generation = copy.deepcopy(model.generation_config)
    generation._from_model_config = False  # else transformers derives it anew when loading
    if stops:
        generation.eos_token_id = stops
    serving = copy.deepcopy(tokenizer)
    serving.chat_template = train_set.chat_template
    with staged_folder(run.tokenizer) as folder:
        serving.save_pretrained(folder)
        # Not save_pretrained, which refuses values that published models have (a temperature
        # without sampling): they are not ours to judge.
        (folder / "generation_config.json").write_text(generation.to_json_string())


def _copy_tokenizer(run: RunFolder) -> None:
    """Beside the adapter, where users of PEFT look for it: that folder can be used alone.

    Before the adapter, whose config is what makes a run a finished one.
    """
    run.adapter.mkdir(exist_ok=True)
    for path in sorted(run.tokenizer.iterdir()):
        write_atomically(run.adapter / path.name, path.read_bytes())


def _evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    sets: NamedSets,
    run: RunFolder,
    clock: Clock | None = None,
) -> tuple[dict[str, SetResult], RunError | None]:
    """Measure and write every set; with why the judge or lm-eval has no say in it."""
    wanted = recipe.evaluate
    stop_ids = stop_ids_of(model, sets.train.stop_ids)
    context = context_of(model.config) or wanted.max_new_tokens
    greedy = SamplingSettings(
        max_new_tokens=min(wanted.max_new_tokens, context),
        temperature=0.0,
        stop_ids=tuple(stop_ids),
    )

    def answerer(prompts: Sequence[Sequence[int]], description: str) -> list[Completion]:
        before = time.monotonic()
        completions = generate(
            model,
            tokenizer,
            prompts,
            greedy,
            max_batch=wanted.max_batch,
            description=description,
        )
        if clock is not None:
            clock.count("answers", time.monotonic() - before)
        return completions

    budget, packed = recipe.train.forward_tokens, _packs(recipe, model)
    measures = Measures.from_section(wanted, seed=recipe.train.seed)
    results = compare_sets(
        model,
        tokenizer,
        sets.evaluation,
        measures,
        answerer,
        stop_ids=stop_ids,
        token_budget=budget,
        packed=packed,
    )
    logged = read_metrics(run.metrics) if run.metrics.is_file() else []
    results = with_proofs(
        model,
        tokenizer,
        results,
        sets.evaluation,
        sets.train,
        measures,
        validation_losses(logged, keeps_best=recipe.train.early_stopping_patience is not None),
        stop_ids=stop_ids,
        token_budget=budget,
        packed=packed,
    )
    results = {
        name: replace(one, same_as=VALIDATION) if is_validation(sets.by_name(), name) else one
        for name, one in results.items()
    }
    _write_results(run, corrected(results))
    tasks = wanted.lm_eval
    if measures.judge is None and tasks is None:
        return corrected(results), None
    write_report(run.path)  # what follows may take hours, or never come
    results, failure = with_outside(
        results,
        sets.evaluation,
        measures,
        None
        if tasks is None
        else lambda: lm_eval_results(
            model,
            tokenizer,
            tasks,
            chat_template=sets.train.chat_template,
            stop_ids=stop_ids,
            token_budget=budget,
            packed=packed,
            seed=recipe.train.seed,
        ),
        lambda found: _write_results(run, corrected(found)),
        run=run.path,
    )
    return corrected(results), failure


def _packs(recipe: Recipe, model: PreTrainedModel) -> bool:
    """Whether examples share a row when they are measured."""
    return recipe.data.packing and why_not_packed(model.config) is None


def _write_results(run: RunFolder, results: Mapping[str, SetResult]) -> None:
    lines = [
        json.dumps(answered.to_json(name), ensure_ascii=False, allow_nan=False) + "\n"
        for name, result in results.items()
        for answered in result.answered
    ]
    write_atomically(run.answers, "".join(lines).encode())
    write_json(run.evaluation, {name: result.to_json() for name, result in results.items()})
