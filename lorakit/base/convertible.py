"""Which linear layers transformers replaces by bitsandbytes' own, with or without a list of
exceptions: the checkpoints of both must agree on it.
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

from lorakit.errors import ModelError


def convertible_linears(model: PreTrainedModel, skip_modules: list[str] | None) -> list[str]:
    """Paths of the layers that `from_pretrained` expects packed in a checkpoint.

    Args:
        model: plain, on the meta device.
        skip_modules: the config's `llm_int8_skip_modules`; None: the output head and what is tied.
    """
    in_float32 = list(model._keep_in_fp32_modules or ())
    kept = HfQuantizer.get_modules_to_not_convert(model, skip_modules, in_float32)
    return [path for path in bitsandbytes_linears(model) if should_convert_module(path, kept)]


def refuse_rebuilt(model: PreTrainedModel) -> None:
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


def bitsandbytes_linears(model: PreTrainedModel) -> list[str]:
    """Paths of all layers that bitsandbytes has a counterpart for."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Conv1D) or type(module) is nn.Linear
    ]
