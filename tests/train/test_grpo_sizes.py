"""Completions, prompts, steps and passes of a cycle are those of TRL's GRPOConfig."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import TrainingArguments

from lorakit.data.examples import Example, examples_in_memory
from lorakit.errors import InputError, RecipeError
from lorakit.recipe import Recipe, parse_recipe
from lorakit.recipe.cycle_sizes import CycleSizes
from lorakit.recipe.faults import known_keys
from lorakit.recipe.trl_names import NOT_HERE
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.question_stream import QuestionStream
from lorakit.train.rewards import Reward
from lorakit.train.settings import LoopSettings

trl = pytest.importorskip("trl")
RepeatSampler = pytest.importorskip("trl.trainer.utils").RepeatSampler

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*activation_checkpointing.*:FutureWarning"),
]

EPOCHS, CYCLES_PER_EPOCH = 3, 4

# What a TRL user has: completions of a micro-batch, micro-batches of a step, and one of the two.
SETTINGS: list[dict[str, Any]] = [
    {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": parts,
        "num_generations": group,
        "num_iterations": passes,
    }
    | length
    for size, parts, group, passes, length in itertools.product(
        (4, 6),
        (1, 2, 4),
        (2, 4),
        (1, 2),
        (
            {},
            *({"steps_per_generation": n} for n in (1, 2, 3, 4, 8)),
            *({"generation_batch_size": n} for n in (8, 12, 16, 24, 48)),
            {"steps_per_generation": 4, "generation_batch_size": 16},
        ),
    )
]


def ours(given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What is copied into a recipe: completions of a step, and the rest by name."""
    options = dict(given)
    batch_size = options.pop("per_device_train_batch_size") * options["gradient_accumulation_steps"]
    if "steps_per_generation" not in options:
        del options["gradient_accumulation_steps"]  # which batch_size says already
    return batch_size, options


def theirs(given: dict[str, Any], folder: Path) -> Any | None:
    """TRL's config; None: it refuses."""
    fixed = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": []}
    fixed["gradient_checkpointing"] = False
    try:
        return trl.GRPOConfig(**fixed, **given)
    except ValueError:
        return None


def test_sizes_are_those_of_trl(tmp_path: Path) -> None:
    compared = refused_here_alone = 0
    for given in SETTINGS:
        config = theirs(given, tmp_path)
        batch_size, options = ours(given)
        settings = GRPOSettings(rewards=(Reward("math"),), **options)
        if config is None or config.generation_batch_size % batch_size:
            # TRL refuses it too, or generates in the middle of an optimizer step.
            refused_here_alone += config is not None
            with pytest.raises(InputError, match="possible"):
                settings.cycle(batch_size)
            continue
        compared += 1
        found = settings.cycle(batch_size)
        micro_batches = config.steps_per_generation * config.num_iterations
        assert found == CycleSizes(
            config.generation_batch_size,
            config.generation_batch_size // config.num_generations,
            config.steps_per_generation // config.gradient_accumulation_steps,
            config.num_iterations,
        ), given
        assert found.num_steps * config.gradient_accumulation_steps == micro_batches
        assert steps_of(settings, batch_size, found) == their_steps(config, found), given
    assert compared > 60 and refused_here_alone > 20


def their_steps(config: Any, sizes: CycleSizes) -> tuple[int, set[int]]:
    """Optimizer steps of all epochs by TRL's sampler, and how often a completion is seen."""
    sampler = RepeatSampler(
        range(CYCLES_PER_EPOCH * sizes.prompts),
        mini_repeat_count=config.num_generations,
        batch_size=config.generation_batch_size // config.num_generations,
        repeat_count=config.num_iterations * config.steps_per_generation,
    )
    # The trainer takes a whole generation at a time and uses one slice of it: a micro-batch.
    slices = len(sampler) // config.generation_batch_size
    asked = Counter(sampler)
    seen = {n // (config.num_generations * config.steps_per_generation) for n in asked.values()}
    return EPOCHS * slices // config.gradient_accumulation_steps, seen


def steps_of(settings: GRPOSettings, batch_size: int, sizes: CycleSizes) -> tuple[int, set[int]]:
    """The same of our loop."""
    row = Example(np.array([5, 6, 7], np.int32), np.array([0, 0, 1], np.float32))
    stream = QuestionStream(
        examples_in_memory([row] * (CYCLES_PER_EPOCH * sizes.prompts)),
        None,
        (),
        seed=0,
        prompts_per_cycle=sizes.prompts,
    )
    loop = LoopSettings(num_train_epochs=EPOCHS, batch_size=batch_size)
    num_steps = stream.count_steps(loop, sizes.num_steps)
    shares = Counter(step % sizes.steps_per_pass for step in range(sizes.num_steps))
    return num_steps, set(shares.values())


@pytest.mark.parametrize(
    ("place", "grpo", "said"),
    [
        ("grpo.steps_per_generation", {"steps_per_generation": 2}, "possible: gradient_accum"),
        (
            "grpo.gradient_accumulation_steps",
            {"gradient_accumulation_steps": 2},
            "cannot take effect because steps_per_generation",
        ),
        (
            "grpo.gradient_accumulation_steps",
            {"gradient_accumulation_steps": 3, "steps_per_generation": 3},
            "3 does not divide train.batch_size 8",
        ),
        (
            "grpo.steps_per_generation",
            {"generation_batch_size": 8, "steps_per_generation": 2},
            "possible: one of the two",
        ),
        (
            "grpo.steps_per_generation",
            {"gradient_accumulation_steps": 2, "steps_per_generation": 3},
            "3 are 12 completions, and an optimizer step sees train.batch_size 8",
        ),
        ("grpo.generation_batch_size", {"generation_batch_size": 12}, "12 completions, and an"),
        (
            "grpo.generation_batch_size",
            {"generation_batch_size": 16, "num_generations": 5},
            "no whole groups of num_generations 5",
        ),
        ("train.batch_size", {"num_generations": 3}, "no whole groups of num_generations 3"),
    ],
)
def test_a_recipe_is_refused_at_the_key(place: str, grpo: dict[str, Any], said: str) -> None:
    values: dict[str, Any] = {
        "base": {"model": "m"},
        "data": {"train": "t"},
        "train": {"method": "grpo", "batch_size": 8},
        "grpo": {"rewards": ["math"]} | grpo,
    }
    with pytest.raises(RecipeError, match=rf"recipe: {place} .*{said}"):
        parse_recipe(values)


# Of the same meaning in every trainer, and so in the section train.
OF_EVERY_TRAINER = {one.name for one in dataclasses.fields(TrainingArguments)}


@pytest.mark.parametrize(
    "name",
    sorted({one.name for one in dataclasses.fields(trl.GRPOConfig)} - OF_EVERY_TRAINER),
)
def test_every_option_of_trl_is_a_key_or_it_is_said_what_is_possible(name: str) -> None:
    """A recipe that was written after a GRPOConfig is not left guessing."""
    if name in known_keys(Recipe)["grpo"]:
        assert name not in NOT_HERE
        return
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"train": {"method": "grpo"}, "grpo": {"rewards": ["math"], name: 1}})
    message = str(caught.value)
    assert f"grpo.{name} is not a key of 'grpo'" in message and "did you mean" not in message
    here = re.findall(r"(?:here it is|possible:) (.+)", message)
    assert here, message
    keys = known_keys(Recipe)
    for section, key in re.findall(r"\b(base|adapter|data|train|evaluate|grpo)\.(\w+)", here[0]):
        assert key in keys[section], message


def test_what_is_not_here_is_of_trl() -> None:
    assert NOT_HERE.keys() <= {one.name for one in dataclasses.fields(trl.GRPOConfig)}
