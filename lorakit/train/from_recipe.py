"""The training that a recipe asks for: SFT or GRPO."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.data.named_sets import NamedSets
from lorakit.recipe import Recipe
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.loop import train
from lorakit.train.outcome import TrainOutcome
from lorakit.train.settings import LoopSettings


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
    """Train the adapter attached to `model` by the recipe's method.

    Args:
        sets: of the recipe.
        stop_ids: tokens that end an answer, beside the model's own.
        run_dir: where choices.json, metrics.jsonl and checkpoints/ go.
        resume: go on from the newest whole checkpoint in `run_dir`.

    Raises:
        InputError, RunError: see `loop.train` and `train_grpo`.
    """
    settings = LoopSettings.from_section(recipe.train, packing=recipe.data.packing)
    if recipe.train.method == "grpo":
        return train_grpo(
            model,
            tokenizer,
            sets.train.examples,
            settings,
            GRPOSettings.from_section(recipe.grpo, seed=recipe.train.seed),
            stop_ids=stop_ids,
            repeats=sets.train.repeats,
            run_dir=run_dir,
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
