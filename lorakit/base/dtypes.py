"""safetensors' names of dtypes, casts that lose no value, and the dtype of a model."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from lorakit.errors import ModelError

TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
# Those that weights are computed with.
FLOATING_DTYPES = {name: TORCH_DTYPES[name] for name in ("F64", "F32", "F16", "BF16")}


def cast(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """`tensor` in `dtype`; `name` is that of the weight, for the message.

    Raises:
        ModelError: a finite value has no finite one in `dtype`, as those above 65504 in float16.
    """
    made = tensor.to(dtype)
    if made.dtype == tensor.dtype or made.isfinite().all():
        return made
    # Infinities that were there before are the model's own.
    if (tensor.isfinite() & ~made.isfinite()).any():
        largest = float(tensor.abs().max())
        raise ModelError(
            f"{name!r} has values that are not finite in {dtype}: its largest magnitude is "
            f"{largest:.6g}; possible: up to {torch.finfo(dtype).max:.6g}. Choose another dtype, "
            "such as bfloat16."
        )
    return made


def compute_dtype(model: PreTrainedModel) -> torch.dtype:
    """The dtype the base computes in; `model.dtype` may be that of an adapter."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.dtype
