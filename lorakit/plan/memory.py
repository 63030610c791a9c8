"""Bytes of a run by part, counted on the real modules: on the meta device they hold no data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import dot_natural_key

from lorakit.adapters.attach import Attached
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.engine.activations import decoder_layers
from lorakit.optimizers.state_plan import StatePlan


@dataclass(frozen=True)
class Memory:
    """Bytes of what is there all the time, by part.

    Attributes:
        weights: the frozen base as it is stored: packed codes and scales, dense weights, buffers.
        adapter: the parameters that train, and what the adapter keeps beside them (DoRA: norms;
            inits: what they started from).
        gradients: the flat gradient, and the parameter's own where its dtype is smaller.
        optimizer: its state on the device, at most; float32 master copies of parameters in a
            smaller dtype.
        loading_peak: the whole base as stored, plus the largest tensor that is on its way there: of
            a packed base, from the first weight that is packed on.
        before_packing: the most before that weight: what is read until then, and the largest of it
            once more; 0 where nothing is packed.
        quantization_constants: of `weights`, the scales of packed codes.
        largest_weight: the largest packed weight, unpacked in the dtype it computes in.
        by_storage: `weights` split by what holds them.
        by_device: `weights` split by where they live.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    loading_peak: int
    before_packing: int
    quantization_constants: int
    largest_weight: int
    by_storage: dict[str, int] = field(default_factory=dict)
    by_device: dict[str, int] = field(default_factory=dict)

    @property
    def known(self) -> int:
        """Bytes that training needs between its passes, wherever they are."""
        return self.weights + self.adapter + self.gradients + self.optimizer


@dataclass(frozen=True)
class Weights:
    """What of `Memory` the modules alone decide.

    Attributes:
        trained: {dtype: bytes of the parameters that train}.
        others: see `Memory`.
    """

    weights: int
    adapter: int
    trained: dict[torch.dtype, int]
    loading_peak: int
    before_packing: int
    quantization_constants: int
    largest_weight: int
    by_storage: dict[str, int]


def count_memory(
    model: PreTrainedModel,
    adapter: Attached,
    state: StatePlan,
    by_device: dict[str, int] | None = None,
) -> Memory:
    """Count the bytes of a model with an adapter attached.

    Args:
        model: on the meta device, or loaded.
        adapter: what `attach_adapter` returned for it.
        state: of the optimizer.
        by_device: where the frozen weights will live, if that is planned.
    """
    return with_optimizer(count_weights(model, adapter), state, by_device or {})


def with_optimizer(counted: Weights, state: StatePlan, by_device: dict[str, int]) -> Memory:
    """Those bytes with what training adds to them."""
    flat = state.layout.size * state.layout.dtype.itemsize
    views = counted.trained.get(state.layout.dtype, 0)
    return Memory(
        weights=counted.weights,
        adapter=counted.adapter,
        gradients=flat + sum(counted.trained.values()) - views,
        optimizer=state.device_bytes + flat - views,
        loading_peak=counted.loading_peak,
        before_packing=counted.before_packing,
        quantization_constants=counted.quantization_constants,
        largest_weight=counted.largest_weight,
        by_storage=counted.by_storage,
        by_device=by_device,
    )


def count_weights(model: PreTrainedModel, adapter: Attached) -> Weights:
    """Count the bytes of weights and adapter; see `count_memory`."""
    trained = adapter.parameters()
    own: dict[int, torch.Tensor] = {id(parameter): parameter for parameter in trained.values()}
    own |= {id(t): t for module in adapter.modules.values() for t in module.kept_tensors()}
    frozen_modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, FrozenLinear | FrozenExperts)
    }
    packed_names = {name: one for name, one in frozen_modules.items() if _is_packed(one)}
    packed_modules = list(packed_names.values())
    packed = {id(t): t for module in packed_modules for t in module.stored.tensors().values()}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    dense = {n: t for n, t in named.items() if id(t) not in own and id(t) not in packed}
    first, later = _around_packing(packed_names, dense)
    by_storage = {"packed": num_bytes(packed.values()), "dense": num_bytes(dense.values())}
    weights = sum(by_storage.values())
    by_dtype: dict[torch.dtype, int] = {}
    for parameter in trained.values():
        by_dtype[parameter.dtype] = by_dtype.get(parameter.dtype, 0) + num_bytes([parameter])
    return Weights(
        weights=weights,
        adapter=num_bytes(own.values()),
        trained=by_dtype,
        loading_peak=weights + _largest_before_packing(frozen_modules.values(), later),
        before_packing=num_bytes(first) + _largest_before_packing([], first),
        quantization_constants=num_bytes(
            tensor
            for module in packed_modules
            for name, tensor in module.stored.tensors().items()
            if name != "codes"
        ),
        largest_weight=max(map(_unpacked_bytes, packed_modules), default=0),
        by_storage=by_storage,
    )


def largest_layer_bytes(model: PreTrainedModel) -> int:
    """Bytes of the frozen weights of the largest decoder layer."""
    return max(
        (
            num_bytes(t for t in (*layer.parameters(), *layer.buffers()) if not t.requires_grad)
            for layer in decoder_layers(model)
        ),
        default=0,
    )


def num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors, each counted as often as it is given."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _is_packed(module: FrozenLinear | FrozenExperts) -> bool:
    """Whether the weight is not stored in a dense dtype."""
    tensors = module.stored.tensors().values()
    return sum(tensor.numel() for tensor in tensors) != module.stored.shape.numel()


def _around_packing(
    packed: Collection[str], dense: Mapping[str, torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Dense tensors that are read before the first weight is packed, and those after it: tensors
    are read in the order of their names."""
    if not packed:
        return [], list(dense.values())
    begins = min(map(dot_natural_key, packed))
    is_first = {name: dot_natural_key(name) < begins for name in dense}
    return (
        [tensor for name, tensor in dense.items() if is_first[name]],
        [tensor for name, tensor in dense.items() if not is_first[name]],
    )


def _largest_before_packing(
    modules: Iterable[FrozenLinear | FrozenExperts], dense: Iterable[torch.Tensor]
) -> int:
    """Bytes of the largest single tensor in the dtype it is packed from."""
    unpacked = (module.stored.shape.numel() * module.stored.dtype.itemsize for module in modules)
    return max(chain(unpacked, (num_bytes([tensor]) for tensor in dense)), default=0)


def _unpacked_bytes(module: FrozenLinear | FrozenExperts) -> int:
    """Of what is unpacked at a time: a weight, or that of one expert."""
    shape = module.stored.shape
    at_a_time = shape[1:] if isinstance(module, FrozenExperts) else shape
    return at_a_time.numel() * module.stored.dtype.itemsize
