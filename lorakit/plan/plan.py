"""What a recipe will take: parameters, bytes by part, steps and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.new_rows import train_new_rows
from lorakit.adapters.routers import refuse_trained_routers
from lorakit.adapters.store import load_adapter
from lorakit.base import hub
from lorakit.base.empty import empty_base
from lorakit.base.from_recipe import add_tokens_of, load_tokenizer_of_base, new_tokens
from lorakit.base.load import load_tokenizer_of
from lorakit.base.tokenizer import TOKENIZER_FILES
from lorakit.data.meanings import read_meanings
from lorakit.data.named_sets import parts_of, rules_of, specs_of, token_cache
from lorakit.data.prepare import Prepared, prepare_meanings
from lorakit.errors import DataError
from lorakit.optimizers.state_plan import StatePlan, state_plan_of
from lorakit.plan.gpus import find_gpu
from lorakit.plan.memory import Memory, count_memory
from lorakit.plan.steps import RunLength, count_run_length
from lorakit.plan.target import Target
from lorakit.recipe import LoraConfig, Recipe, TrainSection
from lorakit.recipe.builtin_names import is_builtin_data


@dataclass(frozen=True)
class Plan:
    """What is predicted; None where it is not known yet.

    Attributes:
        total_parameters: of base and adapter together, tied ones once, packed ones unpacked.
        trainable_parameters: those that train.
        num_adapted, num_not_adapted: layers with an adapter, and other weights of two dimensions.
        memory: bytes by part.
        state: of the optimizer.
        steps: optimizer steps; tokens, trained_tokens: seen in the whole run.
        gpu: {"name", "memory_bytes", "left_for_activations"} when one was named.
        notes: what a reader should know about these numbers.
    """

    total_parameters: int
    trainable_parameters: int
    num_adapted: int
    num_not_adapted: int
    memory: Memory
    state: StatePlan
    steps: int | None
    tokens: int | None
    trained_tokens: int | None
    gpu: dict[str, Any] | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The shape of `plan.json` and `lorakit plan --json`."""
        return {
            "parameters": {"total": self.total_parameters, "trainable": self.trainable_parameters},
            "memory_bytes": self.memory.to_json(),
            "steps": self.steps,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "seconds": None,
            "cost": None,
            "weights_by_storage": self.memory.by_storage,
            "weights_by_device": self.memory.by_device,
            "optimizer_state": {
                "optim": self.state.optim,
                "bytes": self.state.layout.state_bytes,
                "resident_bytes": self.state.resident_bytes,
                "host_bytes": self.state.host_bytes,
                "pages": len(self.state.layout.pages),
            },
            "layers": {"adapted": self.num_adapted, "not_adapted": self.num_not_adapted},
            "gpu": self.gpu,
            "notes": list(self.notes),
        }


def plan(recipe: Recipe, *, prepared: Prepared | None = None, gpu: str | None = None) -> Plan:
    """Predict what `recipe` takes.

    Args:
        recipe: `base.model` may be a folder with nothing but a config.json.
        prepared: the training set; None: it is read if data and tokenizer are at hand, otherwise
            steps and tokens stay unknown and a note says why.
        gpu: name of a GPU to plan for; None: this machine.

    Raises:
        InputError: a recipe that cannot work: no such model, targets that match nothing, rows that
            cannot be read.
    """
    target = Target.of(recipe.base, find_gpu(gpu) if gpu is not None else None)
    base = recipe.base
    model = empty_base(
        base.model,
        quantization=base.quantization,
        double_quantization=base.double_quantization,
        block_size=base.block_size,
        dtype=target.dtype,
        revision=base.revision,
    )
    config = _with_new_tokens(model, recipe)
    by_device = target.placement(model, base)
    if config.path is None:
        adapter = attach_adapter(model, config)
    else:
        adapter = load_adapter(model, config.path)
    refuse_trained_routers(adapter)
    state = state_plan_of(model, adapter.parameters(), recipe.train, target.device.type)
    memory = count_memory(model, adapter, state, by_device)
    notes = []
    if prepared is None:
        prepared, problem = _training_set(recipe, model.config)
        if problem is not None:
            notes.append(f"steps and tokens are not known: {problem}")
    if recipe.train.early_stopping_patience is not None:
        notes.append("early stopping may end the run sooner")
    length = None if prepared is None else _run_length(recipe.train, prepared)
    if length is not None and not length.exact:
        notes.append("tokens are estimated from the first epochs: weights draw other rows in each")
    return Plan(
        total_parameters=adapter.total,
        trainable_parameters=adapter.trainable,
        num_adapted=len(adapter.adapted),
        num_not_adapted=len(adapter.not_adapted),
        memory=memory,
        state=state,
        steps=recipe.train.max_steps if length is None else length.steps,
        tokens=None if length is None else length.tokens,
        trained_tokens=None if length is None else length.trained_tokens,
        gpu=target.fit(memory),
        notes=tuple(notes),
    )


def _run_length(train: TrainSection, prepared: Prepared) -> RunLength:
    return count_run_length(
        prepared.examples,
        prepared.repeats,
        batch_size=train.batch_size,
        num_epochs=train.num_train_epochs,
        max_steps=train.max_steps,
        seed=train.seed,
    )


def _with_new_tokens(model: PreTrainedModel, recipe: Recipe) -> LoraConfig:
    """The adapter's config with the rows of new tokens, for which `model` grows."""
    if not new_tokens(recipe.base):
        return recipe.adapter
    tokenizer, _ = load_tokenizer_of(recipe.base.model, revision=recipe.base.revision)
    return train_new_rows(recipe.adapter, model, add_tokens_of(recipe.base, model, tokenizer))


def _training_set(recipe: Recipe, config: PretrainedConfig) -> tuple[Prepared | None, str | None]:
    """The training set, or which file is not here yet: memory can be planned without it.

    Only absent data or an absent tokenizer are let pass: all else would stop `lorakit train` too.
    """
    rules = rules_of(recipe.data, config)
    specs = specs_of(recipe.data.train)
    absent = [spec for spec in specs if _is_absent(str(spec.source))]
    try:
        meanings = read_meanings(specs, rules, cache_dir=token_cache())
    except DataError as error:
        if not absent:
            raise
        return None, str(error)
    folder = hub.local_path(recipe.base.model)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None, f"{str(folder)!r} has no tokenizer"
    tokenizer, _ = load_tokenizer_of_base(recipe.base)
    meanings = parts_of(recipe, meanings).train
    return prepare_meanings(meanings, tokenizer, rules, cache_dir=token_cache()), None


def _is_absent(source: str) -> bool:
    return not is_builtin_data(source) and not Path(source).expanduser().exists()
