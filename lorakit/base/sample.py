"""A few layers of a model, with random weights: what a layer takes can be timed before any weight
is downloaded or read."""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from lorakit.base import attention, packing
from lorakit.base.families import model_class_of
from lorakit.base.storages import storage


def sample_config(config: PreTrainedConfig, num_layers: int, vocab_size: int) -> PreTrainedConfig:
    """A copy of a checked config with its first layers and words alone."""
    short = copy.deepcopy(config)
    text = short.get_text_config()
    before = text.num_hidden_layers
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == before:  # one entry a layer
            setattr(text, name, value[:num_layers])
    text.num_hidden_layers = num_layers
    text.vocab_size = min(text.vocab_size, vocab_size)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)  # may be beyond the words that are left
    return short


def sample_model(
    config: PreTrainedConfig,
    *,
    quantization: str | None,
    double_quantization: bool,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> PreTrainedModel:
    """A frozen model of `sample_config` with random weights, in eval mode.

    Args:
        quantization: a name of `base/storages`; None: dense.
        others: as for `load_base`.
    """
    attention.register()
    # Nothing that draws later may notice.
    with torch.random.fork_rng(devices=[]), device:
        torch.manual_seed(0)
        model = model_class_of(config)._from_config(
            config, dtype=dtype, attn_implementation=config._attn_implementation
        )
    for path in packing.packable(model):
        if quantization is None:
            stored = packing.stored_at(model, path)
        else:
            stored = storage(quantization).pack(
                packing.storable_weight(packing.layer_at(model, path)).detach(),
                block_size=block_size,
                double_quantization=double_quantization,
            )
        packing.replace_layer(model, path, stored)
    return model.requires_grad_(False).eval()
