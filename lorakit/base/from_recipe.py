"""The base as a recipe's section describes it."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.base.load import load_base
from lorakit.recipe import BaseSection


def load_base_of(
    base: BaseSection, *, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As `load_base`, with the section's values.

    Args:
        dtype: instead of the section's.
    """
    if dtype is None and base.dtype != "auto":
        dtype = getattr(torch, base.dtype)
    return load_base(
        base.model,
        quantization=base.quantization,
        double_quantization=base.double_quantization,
        block_size=base.block_size,
        dtype=dtype,
        device=base.device,
        offload=base.offload,
        max_device_memory=base.max_device_memory,
        revision=base.revision,
    )
