"""A few layers of a model, with random weights: what a layer takes can be timed before any weight
is downloaded or read."""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from lorakit.base import attention, packing
from lorakit.base.families import model_class_of
from lorakit.base.frozen_linear import MovableWeight


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
    like: MovableWeight | None,
    dtype: torch.dtype,
    device: torch.device,
) -> PreTrainedModel:
    """A frozen model of `sample_config` with random weights, in eval mode.

    Args:
        like: a packed weight, as which those of this model are packed; None: they stay dense.
        dtype: of dense weights and computation.
        device: where it computes.
    """
    attention.register()
    # Nothing that draws later may notice.
    with torch.random.fork_rng(devices=[]), device:
        torch.manual_seed(0)
        model = model_class_of(config)._from_config(
            config, dtype=dtype, attn_implementation=config._attn_implementation
        )
    for path in packing.packable(model):
        stored = packing.stored_at(model, path)
        packing.replace_layer(
            model, path, stored if like is None else like.pack_like(stored.dequantize().detach())
        )
    return model.requires_grad_(False).eval()
