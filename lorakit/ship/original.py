"""A merge in memory into the weights that a quantized base was packed from."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from lorakit.adapters.attached import Attached
from lorakit.adapters.contract import ParameterMerge
from lorakit.adapters.low_rank import wide
from lorakit.adapters.modules import KeptStart
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.fusion import source_of
from lorakit.base.info import base_info
from lorakit.base.meta_model import plain_model
from lorakit.base.origin import Origin, origins
from lorakit.base.packing import weight_name
from lorakit.base.repack import is_packed
from lorakit.errors import AdapterError, ModelError
from lorakit.ship.weight_change import LayerChange, WeightChange, layer_change

logger = logging.getLogger(__name__)

UNCHANGED = ParameterMerge(lambda weight: weight)


@torch.no_grad()
def put_into_original(model: PreTrainedModel, adapter: Attached, merged: PreTrainedModel) -> None:
    """Merge again, in place, what `merged` holds of weights that the base does not hold as its
    checkpoint does; the difference is logged.

    Args:
        model: base and adapter.
        adapter: that of `model`.
        merged: its faithful merge, plain.

    Raises:
        ModelError, AdapterError: an original weight cannot be read.
    """
    held = dict(_otherwise_held(model, adapter))
    if not held:
        return
    found, plain = origins(model), plain_model(base_info(model).folder)
    merges = {
        f"{name}.{parameter}".removesuffix("."): merge
        for name, module in adapter.modules.items()
        for parameter, merge in module.merges().items()
    }
    layers: dict[str, LayerChange] = {}
    for name, layer in held.items():
        parameter = weight_name(merged, name)
        merge = merges.get(parameter, UNCHANGED)
        if merge.reads_base:  # the others hold what was trained in full already
            target = merged.get_parameter(parameter)
            original = _read(plain, parameter, found.get(parameter, ()))
            original = wide(original.to(target.device))
            before, after = _before_and_after(layer, merge, adapter.starts().get(name))
            layers[parameter] = _put(target, after, original, original + (after - before))
    change = WeightChange(layers)
    logger.info("merged into the original weights; %s", change)


def _otherwise_held(
    model: PreTrainedModel, adapter: Attached
) -> Iterator[tuple[str, FrozenLinear | FrozenExperts]]:
    """(path in the plain model, frozen layer) of what is packed, or had something taken out."""
    taken = {name for name, kept in adapter.starts().items() if kept.start.subtracted is not None}
    for path, module in model.named_modules():
        name = path.removesuffix(".base_layer")
        frozen = isinstance(module, FrozenLinear | FrozenExperts)
        if frozen and (is_packed(module) or name in taken):
            yield name, module


def _before_and_after(
    layer: FrozenLinear | FrozenExperts, merge: ParameterMerge, kept: KeptStart | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight as training began and as it ended, laid out as in the plain model."""
    base = wide(layer.weight)
    before = base if kept is None else kept.added_to(base)
    if isinstance(layer, FrozenLinear) and layer.fan_in_fan_out:
        base, before = base.t(), before.t()
    return before, merge.change(base)


def _put(
    target: torch.Tensor, faithful: torch.Tensor, before: torch.Tensor, after: torch.Tensor
) -> LayerChange:
    target.copy_(after)

    def as_written(weight: torch.Tensor) -> torch.Tensor:
        return wide(weight.to(target.dtype))

    return layer_change(wide(target), faithful, before, after, as_written)


def _read(plain: PreTrainedModel, parameter: str, parts: tuple[Origin, ...]) -> torch.Tensor:
    if any(part.packed for part in parts):
        raise AdapterError(
            f"the checkpoint holds {parameter!r} quantized; possible in a merge into 'original': "
            "weights that are not. Merge into 'dequantized', or on disk with "
            "`lorakit merge --original MODEL`."
        )
    try:
        return source_of(plain, parameter, parts).dense()
    except (ModelError, OSError, SafetensorError) as error:
        raise AdapterError(
            f"the original weight of {parameter!r} cannot be read again: {error}. Restore the "
            "checkpoint, or merge into 'dequantized'."
        ) from error
