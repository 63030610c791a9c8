"""A model on the meta device with the very modules a load would give: exact bytes without data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lorakit.base import hub
from lorakit.base.as_stored import empty_as_configured, pack_as_stored, stored_weights
from lorakit.base.config import model_config, read_config
from lorakit.base.device import compute_device, compute_dtype
from lorakit.base.meta_model import empty_model
from lorakit.base.quantization_config import CHECKPOINT, KEY, check_asked


def empty_base(
    model: str | Path,
    *,
    quantization: str = "none",
    double_quantization: bool = True,
    block_size: int = 64,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> PreTrainedModel:
    """Build a model without its weights.

    Args:
        model: a folder, a hub id (its config alone is downloaded), or the path of a config.json.
        quantization, double_quantization, block_size, dtype, revision: as for `load_base`. For
            `checkpoint` the headers of the weights say how they are stored; where they are not
            here, what transformers writes for the config is assumed.

    Returns:
        The frozen model on the meta device, in eval mode.

    Raises:
        ModelError: config.json is missing, refused or broken, or asks for another quantization.
    """
    path = hub.resolve_config(model, revision)
    values = read_config(path)
    check_asked(values, quantization)
    dtype = compute_dtype(dtype, compute_device(None))
    if quantization == CHECKPOINT:
        return _as_stored(path.parent, values, dtype)
    return empty_model(
        model_config(values),
        quantization=quantization,
        double_quantization=double_quantization,
        block_size=block_size,
        dtype=dtype,
    )


def _as_stored(folder: Path, values: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    plain = empty_model(model_config(values), dtype=dtype)
    if not hub.weights_are_here(folder):
        return empty_as_configured(plain, values[KEY], dtype)
    return pack_as_stored(plain, stored_weights(folder, plain, is_packed=True).layers, dtype)
