"""Bases without data, each with its adapter, and what of them every plan asks again.

Whoever looks for what makes a run fit plans it a dozen times, and most changes touch neither base
nor adapter: another optimizer, another micro-batch. So a base is built once for all plans that
share a `Workbench`, what follows from its modules is found once, and no pass is rehearsed twice.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property

from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached, attach_adapter
from lorakit.adapters.new_rows import train_new_rows
from lorakit.adapters.routers import refuse_trained_routers
from lorakit.adapters.store import load_adapter
from lorakit.base.dtypes import compute_dtype
from lorakit.base.empty import empty_base
from lorakit.base.from_recipe import add_tokens_of, new_tokens
from lorakit.base.load import load_tokenizer_of
from lorakit.data.garbage import collection_paused
from lorakit.engine.dense_copies import dense_copies, dense_copy_bytes
from lorakit.engine.model_flops import ModelFlops, count_flops
from lorakit.engine.recompute import RecomputePolicy
from lorakit.evaluate.worst import WorstEvaluation
from lorakit.optimizers.state_plan import StatePlan, state_plan_of
from lorakit.plan.evaluation import EvaluationBytes, rehearse_evaluation
from lorakit.plan.memory import Weights, count_weights, largest_layer_bytes
from lorakit.plan.rehearsal import BatchShape, Layers, PassBytes, rehearse
from lorakit.plan.target import Target, layer_bytes
from lorakit.recipe import LoraConfig, Recipe, TrainSection

# What CUDA's caching allocator rounds a request to.
CUDA_BYTES = 512


class Blueprint:
    """A base on the meta device with its adapter, wherever it will be placed.

    Attributes:
        model, adapter: as they will train; nobody changes them.
        layer_bytes: {decoder layer: bytes of its frozen weights}; see `target.layer_bytes`.
        device_type: that computes.
        dtype: it computes in.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: Attached,
        layer_bytes: dict[str, int],
        device_type: str,
    ) -> None:
        self.model, self.adapter, self.layer_bytes = model, adapter, layer_bytes
        self.device_type = device_type
        self.dtype = compute_dtype(model)
        self._granularity = CUDA_BYTES if device_type == "cuda" else 1
        self._passes: dict[tuple[object, ...], PassBytes] = {}
        self._evaluations: dict[tuple[object, ...], EvaluationBytes] = {}
        self._states: dict[tuple[object, ...], StatePlan] = {}

    @cached_property
    def weights(self) -> Weights:
        """Bytes of weights and adapter."""
        return count_weights(self.model, self.adapter)

    @cached_property
    def layers(self) -> Layers:
        """What the layers keep, and which are alike."""
        return Layers.of(self.model)

    @cached_property
    def largest_layer(self) -> int:
        """Bytes of the frozen weights of the largest decoder layer."""
        return largest_layer_bytes(self.model)

    @cached_property
    def copy_bytes(self) -> int:
        """What dense copies of packed weights would take."""
        return dense_copy_bytes(self.model, self.dtype)

    @cached_property
    def flops(self) -> ModelFlops:
        """Operations of passes."""
        return count_flops(self.model, self.adapter, self.dtype.itemsize)

    def state(self, train: TrainSection) -> StatePlan:
        """`state_plan_of` the optimizer, once for what is alike."""
        key = (
            train.optim,
            train.optim_memory,
            train.learning_rate,
            train.loraplus_lr_ratio,
            train.loraplus_lr_embedding,
        )
        if key not in self._states:
            parameters = self.adapter.parameters()
            self._states[key] = state_plan_of(self.model, parameters, train, self.device_type)
        return self._states[key]

    def passes(
        self,
        shape: BatchShape,
        policy: RecomputePolicy,
        *,
        trains: bool,
        dense: bool = False,
        every_layer: bool = False,
        of_policy: bool = False,
    ) -> PassBytes:
        """`rehearse` a micro-batch, beside dense copies of packed weights where there will be any;
        one whose layers recompute alike is rehearsed once."""
        levels = tuple(policy.levels(self.layers.bytes, shape.num_tokens))
        key = (shape, policy.level == "auto", levels, trains, dense, every_layer, of_policy)
        if key not in self._passes:
            with dense_copies(self.model, self.dtype) if dense else nullcontext():
                self._passes[key] = rehearse(
                    self.model,
                    self.adapter,
                    shape,
                    policy,
                    device_type=self.device_type,
                    trains=trains,
                    granularity=self._granularity,
                    every_layer=every_layer,
                    layers=self.layers,
                    of_policy=of_policy,
                )
        return self._passes[key]

    def evaluation(
        self, worst: WorstEvaluation, max_new_tokens: int, *, has_holes: bool
    ) -> EvaluationBytes:
        """`rehearse_evaluation`, once for what is alike."""
        key = (worst, max_new_tokens, has_holes)
        if key not in self._evaluations:
            self._evaluations[key] = rehearse_evaluation(
                self.model,
                worst,
                max_new_tokens=max_new_tokens,
                device_type=self.device_type,
                granularity=self._granularity,
                has_holes=has_holes,
                kinds=self.layers.kinds,
            )
        return self._evaluations[key]


class Workbench:
    """Bases that plans share: of a recipe and of its changes, for one machine."""

    def __init__(self) -> None:
        self._blueprints: dict[tuple[object, ...], Blueprint] = {}

    def blueprint(self, recipe: Recipe, target: Target) -> Blueprint:
        """The base and adapter of `recipe`, built where no plan has asked for them.

        Raises:
            InputError: see `plan`.
        """
        # The dtype is the target's: "auto" is one of the others by now. Where layers wait changes
        # nothing in them, nor does how much memory the target has.
        base = recipe.base.model_dump_json(exclude={"dtype", "offload", "max_device_memory"})
        key = (base, recipe.adapter.model_dump_json(), target.device.type, target.dtype)
        if key not in self._blueprints:
            # Tens of thousands of modules and tensors without data, none of which is garbage.
            with collection_paused():
                self._blueprints[key] = _build(recipe, target)
        return self._blueprints[key]


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
    layers = layer_bytes(model)
    if config.path is None:
        adapter = attach_adapter(model, config)
    else:
        adapter = load_adapter(model, config.path)
    refuse_trained_routers(adapter)
    return Blueprint(model, adapter, layers, target.device.type)


def _with_new_tokens(model: PreTrainedModel, recipe: Recipe) -> LoraConfig:
    """The adapter's config with the rows of new tokens, for which `model` grows."""
    if not new_tokens(recipe.base):
        return recipe.adapter
    tokenizer, _ = load_tokenizer_of(recipe.base.model, revision=recipe.base.revision)
    return train_new_rows(recipe.adapter, model, add_tokens_of(recipe.base, model, tokenizer))
