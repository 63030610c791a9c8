"""A merge in memory into the weights that a quantized base was packed from."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from lorakit.adapters.attached import Attached
from lorakit.adapters.contract import Factors, ParameterMerge
from lorakit.adapters.low_rank import product, wide
from lorakit.base.frozen_linear import is_conv1d
from lorakit.base.origin import Origin, origins
from lorakit.base.repack import is_packed
from lorakit.errors import AdapterError
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
    names = list(_otherwise_held(model, adapter))
    if not names:
        return
    found = origins(model)
    merges = {
        f"{name}.{parameter}": merge
        for name, module in adapter.modules.items()
        for parameter, merge in module.merges().items()
    }
    layers: dict[str, LayerChange] = {}
    for name in names:
        merge = merges.get(f"{name}.weight", UNCHANGED)
        if merge.reads_base:  # the others hold what was trained in full already
            target = merged.get_submodule(name).get_parameter("weight")
            original = _read(f"{name}.weight", found.get(f"{name}.weight", ()))
            layers[f"{name}.weight"] = _merge_into(
                target, original.to(target.device), merge, _began(name, adapter, original)
            )
    change = WeightChange(layers)
    logger.info("merged into the original weights; %s", change)


def _otherwise_held(model: PreTrainedModel, adapter: Attached) -> Iterator[str]:
    """Names of the layers that are packed, or that an init took something out of."""
    taken = {name for name, kept in adapter.starts().items() if kept.start.subtracted is not None}
    for path, module in model.named_modules():
        name = path.removesuffix(".base_layer")
        if is_packed(module) or (path != name and name in taken):
            yield name


def _began(name: str, adapter: Attached, original: torch.Tensor) -> torch.Tensor | None:
    """What the adapter of a layer started with, in the layout of `original`: no change of it."""
    kept = adapter.starts().get(name)
    if kept is None:
        return None
    transposed = is_conv1d(adapter.modules[name].get_submodule("base_layer"))
    weight = original.t() if transposed else original
    began = product(weight, Factors(kept.start.lora_A, kept.start.lora_B), kept.scaling)
    return began.t() if transposed else began


def _merge_into(
    target: torch.Tensor,
    original: torch.Tensor,
    merge: ParameterMerge,
    began: torch.Tensor | None,
) -> LayerChange:
    faithful, before = wide(target.clone()), wide(original)
    base = before if began is None else before - began.to(before)
    after = merge.change(base)
    target.copy_(after)
    return layer_change(
        wide(target), faithful, before, after, lambda weight: wide(weight.to(target.dtype))
    )


def _read(parameter: str, parts: tuple[Origin, ...]) -> torch.Tensor:
    if len(parts) != 1 or parts[0].converted or parts[0].packed is not None:
        how = "quantized" if any(part.packed for part in parts) else f"as {len(parts)} tensors"
        raise AdapterError(
            f"the checkpoint holds {parameter!r} {how}; possible in a merge into 'original': "
            "weights stored as they are. Merge into 'dequantized', or on disk with "
            "`lorakit merge --original MODEL`."
        )
    try:
        return parts[0].read()
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"the original weight of {parameter!r} cannot be read again: {error}. Restore the "
            "checkpoint, or merge into 'dequantized'."
        ) from error
