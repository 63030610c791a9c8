"""The evaluation that a recipe asks for, from a model to the files of its run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lorakit.base.families import why_not_packed
from lorakit.base.stops import stop_ids_of
from lorakit.data.named_sets import VALIDATION, NamedSets, context_of, is_validation
from lorakit.errors import RunError
from lorakit.evaluate.before_after import compare_sets
from lorakit.evaluate.correction import corrected
from lorakit.evaluate.lm_eval_tasks import lm_eval_results
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.outside import with_outside
from lorakit.evaluate.overfitting import validation_losses
from lorakit.evaluate.proof import with_proofs
from lorakit.evaluate.result import SetResult
from lorakit.files import write_atomically, write_json
from lorakit.generate import Completion, SamplingSettings, generate
from lorakit.generate.at_a_time import AnswerRoom
from lorakit.recipe import EvaluateSection, Recipe
from lorakit.run_folder import RunFolder
from lorakit.train.clock import Clock
from lorakit.train.metrics import read_metrics


def evaluate_sets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    sets: NamedSets,
    run: RunFolder,
    *,
    report: Callable[[], object],
    clock: Clock | None = None,
) -> tuple[dict[str, SetResult], RunError | None]:
    """Measure every set and write what was found into the run folder.

    Args:
        model: with the adapter attached and switched on.
        report: called when all is written but what the judge and lm-eval say, which may take hours
            or never come.
        clock: gets the time of answers as a part of its own.

    Returns:
        The results, and why the judge or lm-eval has no say in them.
    """
    wanted = recipe.evaluate
    stop_ids = stop_ids_of(model, sets.train.stop_ids)
    room = AnswerRoom.here(model, max_new_tokens=wanted.max_new_tokens, given=wanted.max_batch)
    answering = _Answering(model, tokenizer, wanted, room, tuple(stop_ids), clock)
    budget, packed = recipe.train.forward_tokens, packs(recipe, model.config)
    measures = Measures.from_section(wanted, seed=recipe.train.seed)
    results = compare_sets(
        model,
        tokenizer,
        sets.evaluation,
        measures,
        answering.greedily,
        sampler=answering.sampled,
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
        None if recipe.train.method == "grpo" else sets.train,
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
    report()
    results, failure = with_outside(
        results,
        sets.evaluation,
        measures,
        iter(())
        if tasks is None
        else lm_eval_results(
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


@dataclass(frozen=True)
class _Answering:
    """Answers prompts as a recipe says, with the model as it stands.

    Attributes:
        room: for answers.
        clock: gets the time that it takes.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    wanted: EvaluateSection
    room: AnswerRoom
    stop_ids: tuple[int, ...]
    clock: Clock | None

    def greedily(self, prompts: Sequence[Sequence[int]], description: str) -> list[Completion]:
        """Each token the most probable one."""
        return self._generate(prompts, self._settings(temperature=0.0), None, description)

    def sampled(
        self, prompts: Sequence[Sequence[int]], description: str, *, seeds: Sequence[int]
    ) -> list[Completion]:
        """As `evaluate.sampling` says, with a seed for each."""
        sampling = self.wanted.sampling
        assert sampling is not None
        settings = replace(
            self._settings(temperature=sampling.temperature),
            top_p=sampling.top_p,
            top_k=sampling.top_k,
        )
        return self._generate(prompts, settings, seeds, description)

    def _settings(self, *, temperature: float) -> SamplingSettings:
        context = context_of(self.model.config) or self.wanted.max_new_tokens
        return SamplingSettings(
            max_new_tokens=min(self.wanted.max_new_tokens, context),
            temperature=temperature,
            stop_ids=self.stop_ids,
        )

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        seeds: Sequence[int] | None,
        description: str,
    ) -> list[Completion]:
        before = time.monotonic()
        completions = generate(
            self.model,
            self.tokenizer,
            prompts,
            settings,
            seeds=seeds,
            max_batch=self.room.at_a_time(max(map(len, prompts), default=0)),
            max_dense_bytes=self.room.dense_bytes,
            description=description,
        )
        if self.clock is not None:
            self.clock.count("answers", time.monotonic() - before)
        return completions


def packs(recipe: Recipe, config: PreTrainedConfig) -> bool:
    """Whether examples share a row: where the recipe wants it and the family allows it."""
    return recipe.data.packing and why_not_packed(config) is None


def _write_results(run: RunFolder, results: Mapping[str, SetResult]) -> None:
    lines = [
        json.dumps(answered.to_json(name), ensure_ascii=False, allow_nan=False) + "\n"
        for name, result in results.items()
        for answered in result.answered
    ]
    write_atomically(run.answers, "".join(lines).encode())
    write_json(run.evaluation, {name: result.to_json() for name, result in results.items()})
