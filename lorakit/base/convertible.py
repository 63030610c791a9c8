"""Which linear layers a packed checkpoint has packed: the sides that read it must agree on them.

Those that lorakit packs (output head, expert routers and embeddings stay as they are) among those
that transformers replaces by bitsandbytes' layers, minus a list of exceptions in the config.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import HfQuantizer
from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationMethod

from lorakit.base.checkpoint import TensorEntry
from lorakit.base.families import READ_DIRECTLY
from lorakit.base.frozen_experts import expert_layouts, parameter_name
from lorakit.base.origin import origins_of
from lorakit.base.packing import packable_linears
from lorakit.errors import ModelError


def convertible_linears(model: PreTrainedModel, skip_modules: list[str] | None) -> list[str]:
    """Paths of the layers that `from_pretrained` expects packed in a checkpoint.

    Args:
        model: plain, on the meta device.
        skip_modules: the config's `llm_int8_skip_modules`; None: the output head and what is tied.
    """
    in_float32 = list(model._keep_in_fp32_modules or ())
    kept = HfQuantizer.get_modules_to_not_convert(model, skip_modules, in_float32)
    return [path for path in _bitsandbytes_linears(model) if should_convert_module(path, kept)]


def tensors_to_pack(plain: PreTrainedModel, entries: dict[str, TensorEntry]) -> dict[str, str]:
    """The weights of a checkpoint that a packed copy has packed.

    Args:
        plain: the model on the meta device.
        entries: the checkpoint's tensors.

    Returns:
        {tensor: path of its linear layer}

    Raises:
        ModelError: a family that has none, or that transformers rebuilds.
    """
    _refuse_rebuilt(plain)
    tied = plain.all_tied_weights_keys
    origins = origins_of(plain, entries)
    convertible = set(convertible_linears(plain, []))
    shared = {*tied, *tied.values()}
    direct = READ_DIRECTLY.get(plain.config.model_type, ())
    layers: dict[str, str] = {}
    for path in packable_linears(plain):
        parts = origins.get(f"{path}.weight", ())
        is_whole = len(parts) == 1 and not parts[0].converted
        is_alone = f"{path}.weight" not in shared and path.rpartition(".")[2] not in direct
        if path in convertible and is_whole and is_alone:
            layers[parts[0].tensor] = path
    if not layers:
        raise ModelError(
            f"bitsandbytes packs no layer of a {plain.config.model_type!r} model; possible: "
            "families of plain linear layers. Quantize it while loading (base.quantization)."
        )
    return layers


def layers_left(plain: PreTrainedModel, packed: set[str]) -> dict[str, str]:
    """{path of a linear layer that stays as it is: why}, given the paths of packed ones.

    Raises:
        ModelError: no list of exceptions makes transformers expect exactly `packed`.
    """
    known, packable = set(_bitsandbytes_linears(plain)), set(packable_linears(plain))
    skipped = {}
    for path in sorted((known | packable) - packed):
        if path not in known:
            skipped[path] = "bitsandbytes has no layer of its kind"
        elif path not in packable:
            skipped[path] = "output heads and expert routers stay as they are"
        else:
            skipped[path] = "transformers ties it, reads it directly or makes it when loading"
    if set(convertible_linears(plain, sorted(skipped))) != packed:
        raise ModelError(
            f"a {plain.config.model_type!r} model has layers that transformers cannot tell apart "
            "by name; possible: other families. Quantize it while loading (base.quantization)."
        )
    return skipped


def experts_left(plain: PreTrainedModel) -> dict[str, str]:
    """{path of a layer's experts that stay as they are: why}: all of them."""
    why = "fused experts are one parameter, and bitsandbytes packs linear layers only"
    return {
        parameter_name(path, layout): why for path, layout in sorted(expert_layouts(plain).items())
    }


def _bitsandbytes_linears(model: PreTrainedModel) -> list[str]:
    """Paths of all layers that bitsandbytes has a counterpart for."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Conv1D) or type(module) is nn.Linear
    ]


def _refuse_rebuilt(model: PreTrainedModel) -> None:
    """Raise ModelError for a family that transformers builds of other modules when a checkpoint of
    bitsandbytes is loaded: it would look for other tensors than a plain one has.
    """
    for module in model.modules():
        rebuilt: dict[str, Any] = MODULES_TO_PATCH_FOR_QUANTIZATION.get(type(module).__name__, {})
        if QuantizationMethod.BITS_AND_BYTES in rebuilt.get("quantization_methods", ()):
            raise ModelError(
                f"transformers builds a {model.config.model_type!r} model of other modules than "
                f"{type(module).__name__} when it is packed by bitsandbytes; possible: other "
                "families. Quantize it while loading (base.quantization)."
            )
