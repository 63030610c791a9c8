"""The training that a recipe asks for: SFT, GRPO, or one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.data.named_sets import NamedSets
from lorakit.http_client import api_key
from lorakit.recipe import Recipe
from lorakit.recipe.warm_start import warm_start_recipe
from lorakit.train.checks import check_sets
from lorakit.train.grpo import checked_rewarder, train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.loop import train
from lorakit.train.outcome import TrainOutcome
from lorakit.train.question_stream import QuestionStream
from lorakit.train.samplers import Sampler
from lorakit.train.settings import LoopSettings
from lorakit.train.vllm_sampler import VLLMSampler
from lorakit.train.vllm_server import KEY_OPTION, VLLMServer


def check_rewards_of(recipe: Recipe) -> None:
    """See that the rewards of a recipe are there, before anything is read. Runs no function.

    Raises:
        InputError: values that cannot work, a schema that is none, a function that is not there, or
            a scorer without what it needs: for code the jail.
    """
    if recipe.train.method == "grpo":
        with _grpo_of(recipe).rewarder() as rewarder:
            rewarder.check_scorers()


def check_reward_calls(recipe: Recipe, sets: NamedSets) -> None:
    """See that rows and options are what reward functions take, as their files say it. Runs no
    function; `check_training` does, and so sees those too whose files do not say it.

    Raises:
        InputError: a function wants a column that the rows have not, or takes no such option.
    """
    if recipe.train.method == "grpo":
        with _grpo_of(recipe).rewarder() as rewarder:
            rewarder.check_as_written(sets.train.rows)


def check_training(
    model: PreTrainedModel, recipe: Recipe, sets: NamedSets, stop_ids: tuple[int, ...]
) -> None:
    """Refuse a training that cannot work, before anything is written.

    Raises:
        InputError: rows that cannot be trained on or asked, a reward that cannot be called, or
            no key of the vLLM server.
    """
    validation = None if sets.validation is None else sets.validation.examples
    check_sets(model, {"train": sets.train.examples, "validation": validation})
    if sets.warm_start is not None:
        stage = warm_start_recipe(recipe)
        assert stage is not None
        check_training(model, stage, sets.warm_start, stop_ids)
    if recipe.train.method == "grpo":
        grpo = _grpo_of(recipe)
        stream = QuestionStream(
            sets.train.examples,
            sets.train.repeats,
            stop_ids,
            seed=recipe.train.seed,
            prompts_per_cycle=grpo.cycle(recipe.train.batch_size).prompts,
        )
        stream.longest_prompt(model, grpo.loss.max_completion_length)
        if recipe.grpo.use_vllm:
            api_key(recipe.grpo.vllm_api_key_env, KEY_OPTION)
        with checked_rewarder(grpo, sets.train.rows):
            pass


def train_recipe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    sets: NamedSets,
    *,
    stop_ids: tuple[int, ...],
    run_dir: Path,
    resume: bool,
) -> TrainOutcome:
    """Train the adapter attached to `model` by the recipe's method, without its warm start.

    Args:
        sets: of the recipe.
        stop_ids: tokens that end an answer, beside the model's own.
        run_dir: where choices.json, metrics.jsonl and checkpoints/ go.
        resume: go on from the newest whole checkpoint in `run_dir`.

    Raises:
        InputError, RunError: see `loop.train` and `train_grpo`.
    """
    settings = _loop_of(recipe)
    if recipe.train.method == "grpo":
        with _sampler_of(recipe, run_dir) as sample:
            return train_grpo(
                model,
                tokenizer,
                sets.train.examples,
                settings,
                _grpo_of(recipe),
                stop_ids=stop_ids,
                repeats=sets.train.repeats,
                rows=sets.train.rows,
                warm_start=_warm_start_identity(recipe, sets),
                run_dir=run_dir,
                sample=sample,
                resume=resume,
            )
    return train(
        model,
        sets.train.examples,
        settings,
        repeats=sets.train.repeats,
        validation=None if sets.validation is None else sets.validation.examples,
        run_dir=run_dir,
        resume=resume,
    )


def _warm_start_identity(recipe: Recipe, sets: NamedSets) -> Mapping[str, Any] | None:
    stage = warm_start_recipe(recipe)
    if stage is None or sets.warm_start is None:
        return None
    return {"train": sets.warm_start.train.examples.fingerprint, **_loop_of(stage).identity()}


def _loop_of(recipe: Recipe) -> LoopSettings:
    return LoopSettings.from_section(
        recipe.train, packing=recipe.data.packing, silence=recipe.check.silence
    )


def _grpo_of(recipe: Recipe) -> GRPOSettings:
    return GRPOSettings.from_section(recipe.grpo, seed=recipe.train.seed)


@contextmanager
def _sampler_of(recipe: Recipe, run_dir: Path) -> Iterator[Sampler | None]:
    grpo = recipe.grpo
    if not grpo.use_vllm:
        yield None
        return
    server = VLLMServer(grpo.vllm_server_base_url, grpo.vllm_api_key_env, grpo.vllm_answer_seconds)
    with VLLMSampler(
        server,
        run_dir / "vllm",
        up_seconds=grpo.vllm_server_timeout,
        is_corrected=grpo.importance_sampling_mode is not None,
    ) as sampler:
        yield sampler
