"""Whether a model is the one that a quantized checkpoint was packed from."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from lorakit.base.as_stored import stored_weights
from lorakit.base.frozen_linear import is_conv1d
from lorakit.base.fusion import source_of
from lorakit.base.meta_model import plain_model
from lorakit.base.packed_entry import PackedEntry
from lorakit.base.storages.int8 import Int8Weight
from lorakit.errors import ModelError

# Of the codes, over all weights. Not all: other builds and devices round ties otherwise, and it may
# have been packed from another dtype. Weights that differ by half a percent agree in 98 %.
LEAST_EQUAL = 0.99


@torch.no_grad()
def refuse_other_model(original: Path, base: Path) -> None:
    """Check, one weight at a time, that packing `original` as `base` is packed gives its codes.

    Args:
        original: folder of an unquantized model.
        base: folder of a quantized checkpoint.

    Raises:
        ModelError: it does not, or the two have other parameters.
    """
    plain, plain_base = plain_model(original), plain_model(base)
    _refuse_other_shapes(original, plain, plain_base)
    origins = stored_weights(original, plain, is_packed=False).origins
    equal, count, worst = 0, 0, ("", 1.0)
    for path, entry in stored_weights(base, plain_base, is_packed=True).layers.items():
        parameter = f"{path}.weight"
        weight = source_of(plain, parameter, origins.get(parameter, ())).dense()
        if is_conv1d(plain.get_submodule(path)):
            weight = weight.t()
        same = equal_codes(entry, weight)
        equal, count = equal + same, count + weight.numel()
        worst = min(worst, (path, same / weight.numel()), key=lambda found: found[1])
    if equal < LEAST_EQUAL * count:
        raise ModelError(
            f"the original {str(original)!r} is not the model that {str(base)!r} was packed from: "
            f"packed in the same way, {equal / count:.1%} of its codes are the same (least in "
            f"{worst[0]}: {worst[1]:.1%}), at least {LEAST_EQUAL:.0%} are possible where it is. "
            "Name the very model, before any fine-tuning, with --original; or merge into "
            "'dequantized'."
        )


def equal_codes(entry: PackedEntry, weight: torch.Tensor) -> int:
    """How many codes of a packed weight are those of `weight` (O, I), packed in the same way."""
    stored = entry.read(entry.dtype)
    again = stored.pack_like(weight.to(entry.dtype).contiguous())
    differing = stored.codes ^ again.codes
    if isinstance(stored, Int8Weight):
        return int((differing == 0).sum())
    pairs = torch.stack([differing & 0xF0, differing & 0x0F]) == 0  # two codes in a byte
    return int(pairs.sum()) - weight.numel() % 2  # the last one of an odd number is none


def _refuse_other_shapes(original: Path, plain: PreTrainedModel, base: PreTrainedModel) -> None:
    found, needed = (
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        for model in (plain, base)
    )
    differing = sorted(n for n in found | needed if found.get(n) != needed.get(n))
    if differing:
        name = differing[0]
        raise ModelError(
            f"the original {str(original)!r} is another model than the base: {len(differing)} "
            f"parameters differ, such as {name!r} of shape {found.get(name, 'none')} instead of "
            f"{needed.get(name, 'none')}; possible: the model that the base was packed from. Name "
            "that with --original."
        )
