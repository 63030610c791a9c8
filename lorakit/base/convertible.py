"""Which linear layers transformers replaces by bitsandbytes' own, with or without a list of
exceptions: the checkpoints of both must agree on it.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module


def convertible_linears(model: PreTrainedModel, skip_modules: list[str] | None) -> list[str]:
    """Paths of the layers that `from_pretrained` expects packed in a checkpoint.

    Args:
        model: plain, on the meta device.
        skip_modules: the config's `llm_int8_skip_modules`; None: the output head and what is tied.
    """
    in_float32 = list(model._keep_in_fp32_modules or ())
    kept = HfQuantizer.get_modules_to_not_convert(model, skip_modules, in_float32)
    return [path for path in bitsandbytes_linears(model) if should_convert_module(path, kept)]


def bitsandbytes_linears(model: PreTrainedModel) -> list[str]:
    """Paths of all layers that bitsandbytes has a counterpart for."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Conv1D) or type(module) is nn.Linear
    ]
