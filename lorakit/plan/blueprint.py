"""Bases without data, each with its adapter, and what of them every plan asks again.

Whoever looks for what makes a run fit plans it a dozen times, and most changes touch neither base
nor adapter: another optimizer, another micro-batch. So a base is built once for all plans that
share a `Workbench`, also where it is stored otherwise; what follows from its modules is found once,
and no pass is rehearsed twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property

from transformers import PreTrainedModel

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.new_rows import train_new_rows
from lorakit.adapters.routers import refuse_trained_routers
from lorakit.adapters.store import load_adapter
from lorakit.base.empty import empty_base
from lorakit.base.from_recipe import add_tokens_of, new_tokens
from lorakit.base.frozen_linear import FrozenWeight
from lorakit.base.load import load_tokenizer_of
from lorakit.base.meta_model import frozen_layers, stored_otherwise
from lorakit.base.placement import bytes_by_layer, layer_of
from lorakit.base.quantization_config import CHECKPOINT
from lorakit.base.storages import storage
from lorakit.data.garbage import collection_paused
from lorakit.engine.dense_copies import dense_copies, dense_copy_bytes
from lorakit.engine.model_flops import ModelFlops
from lorakit.engine.recompute import RecomputePolicy
from lorakit.evaluate.worst import WorstEvaluation
from lorakit.optimizers.state_plan import StatePlan
from lorakit.plan.evaluation import EvaluationBytes, rehearse_evaluation
from lorakit.plan.heap import Heap
from lorakit.plan.memory import Weights, count_weights, largest_layer_bytes, num_bytes
from lorakit.plan.rehearsal import BatchShape, Layers, PassBytes, rehearse
from lorakit.plan.structure import Structure
from lorakit.plan.target import Target
from lorakit.recipe import BaseSection, LoraConfig, Recipe, TrainSection

# What CUDA's caching allocator rounds a request to.
CUDA_BYTES = 512
# How weights are stored, and what changes nothing in a model: the dtype is the target's ("auto" is
# one of the others by now), layers wait where they wait, and the target has what memory it has.
STORAGE = ("quantization", "double_quantization", "block_size")
OF_TARGET = ("dtype", "offload", "max_device_memory")


class Blueprint:
    """A base on the meta device with its adapter, wherever it will be placed.

    Attributes:
        structure: its modules, which nobody changes but for their storages.
        adapter: as it will train.
        layer_bytes: {decoder layer: bytes of its frozen weights}; see `bytes_by_layer`.
        device_type: that computes.
        dtype: it computes in.
    """

    def __init__(
        self,
        structure: Structure,
        stored: Mapping[str, FrozenWeight],
        layer_bytes: dict[str, int],
    ) -> None:
        self.structure, self.layer_bytes = structure, layer_bytes
        self.adapter, self.device_type = structure.adapter, structure.device_type
        self.dtype = structure.dtype
        self._stored = stored
        self._granularity = CUDA_BYTES if self.device_type == "cuda" else 1
        self._passes: dict[tuple[object, ...], PassBytes] = {}
        self._evaluations: dict[tuple[object, ...], EvaluationBytes] = {}

    @property
    def model(self) -> PreTrainedModel:
        """As it will train, its weights stored as in this blueprint: until that of another one of
        the same structure is asked for."""
        return self.structure.model(self._stored)

    def stored_as(self, base: BaseSection) -> Blueprint:
        """The same base and adapter, the frozen weights stored as `base` says."""
        chosen = storage(base.quantization)
        layer_bytes = dict(self.layer_bytes)
        stored: dict[str, FrozenWeight] = {}
        for path, module in self.structure.frozen.items():
            stored[path] = stored_otherwise(
                module,
                self._stored[path],
                chosen,
                block_size=base.block_size,
                double_quantization=base.double_quantization,
            )
            before, after = (
                num_bytes(one.tensors().values()) for one in (self._stored[path], stored[path])
            )
            layer_bytes[layer_of(path)] += after - before
        return Blueprint(self.structure, stored, layer_bytes)

    @cached_property
    def weights(self) -> Weights:
        """Bytes of weights and adapter."""
        return count_weights(self.model, self.adapter)

    @cached_property
    def largest_layer(self) -> int:
        """Bytes of the frozen weights of the largest decoder layer."""
        return largest_layer_bytes(self.model)

    @cached_property
    def copy_bytes(self) -> int:
        """What dense copies of packed weights would take."""
        return dense_copy_bytes(self.model, self.dtype)

    @property
    def layers(self) -> Layers:
        """See `Structure`."""
        return self.structure.layers

    @property
    def can_recompute(self) -> bool:
        """See `Structure`."""
        return self.structure.can_recompute

    @property
    def flops(self) -> ModelFlops:
        """See `Structure`."""
        return self.structure.flops

    def state(self, train: TrainSection) -> StatePlan:
        """See `Structure`."""
        return self.structure.state(train)

    def passes(
        self,
        shape: BatchShape,
        policy: RecomputePolicy,
        *,
        trains: bool,
        dense: bool = False,
        heap: Heap | None = None,
        of_policy: bool = False,
    ) -> PassBytes:
        """`rehearse` a micro-batch, beside dense copies of packed weights where there will be any;
        one whose layers recompute alike is rehearsed once."""
        levels = tuple(policy.levels(self.layers.bytes, shape.num_tokens))
        key = (shape, policy.level == "auto", levels, trains, dense, heap, of_policy)
        if key not in self._passes:
            model = self.model
            with dense_copies(model, self.dtype) if dense else nullcontext():
                self._passes[key] = rehearse(
                    model,
                    self.adapter,
                    shape,
                    policy,
                    device_type=self.device_type,
                    trains=trains,
                    granularity=self._granularity,
                    heap=heap,
                    layers=self.layers,
                    of_policy=of_policy,
                )
        return self._passes[key]

    def evaluation(
        self, worst: WorstEvaluation, max_new_tokens: int, *, heap: Heap | None
    ) -> EvaluationBytes:
        """`rehearse_evaluation`, once for what is alike."""
        key = (worst, max_new_tokens, heap)
        if key not in self._evaluations:
            self._evaluations[key] = rehearse_evaluation(
                self.model,
                worst,
                max_new_tokens=max_new_tokens,
                device_type=self.device_type,
                granularity=self._granularity,
                heap=heap,
                kinds=self.layers.kinds,
            )
        return self._evaluations[key]


class Workbench:
    """Bases that plans share: of a recipe and of its changes, for one machine."""

    def __init__(self) -> None:
        # {what makes the modules: {how their weights are stored: the blueprint}}
        self._blueprints: dict[tuple[object, ...], dict[str, Blueprint]] = {}

    def blueprint(self, recipe: Recipe, target: Target) -> Blueprint:
        """The base and adapter of `recipe`, built where no plan has asked for them.

        Raises:
            InputError: see `plan`.
        """
        base = recipe.base.model_dump_json(exclude={*STORAGE, *OF_TARGET})
        key = (base, recipe.adapter.model_dump_json(), target.device.type, target.dtype)
        stored = recipe.base.model_dump_json(include=set(STORAGE))
        alike = self._blueprints.setdefault(key, {})
        if stored not in alike:
            # Tens of thousands of modules and tensors without data, none of which is garbage.
            with collection_paused():
                first = next(iter(alike.values()), None)
                alike[stored] = (
                    _build(recipe, target)
                    if first is None or not _can_store(first, recipe)
                    else first.stored_as(recipe.base)
                )
        return alike[stored]


def _can_store(first: Blueprint, recipe: Recipe) -> bool:
    """Whether a blueprint for other storages can become that of `recipe`, which differs from its
    own by nothing else."""
    read = recipe.base.quantization == CHECKPOINT or recipe.adapter.path is not None
    return not read and first.structure.can_store_otherwise


def _build(recipe: Recipe, target: Target) -> Blueprint:
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
    frozen = frozen_layers(model)
    layers = bytes_by_layer(model)
    if config.path is None:
        adapter = attach_adapter(model, config)
    else:
        adapter = load_adapter(model, config.path)
    refuse_trained_routers(adapter)
    structure = Structure(model, adapter, frozen, target.device.type)
    return Blueprint(structure, structure.stored, layers)


def _with_new_tokens(model: PreTrainedModel, recipe: Recipe) -> LoraConfig:
    """The adapter's config with the rows of new tokens, for which `model` grows."""
    if not new_tokens(recipe.base):
        return recipe.adapter
    tokenizer, _ = load_tokenizer_of(recipe.base.model, revision=recipe.base.revision)
    return train_new_rows(recipe.adapter, model, add_tokens_of(recipe.base, model, tokenizer))
