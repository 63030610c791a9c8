"""The base as a recipe's section describes it."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lorakit.base.load import load_base, load_tokenizer_of
from lorakit.base.vocabulary import add_to_tokenizer, add_tokens
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
    model, tokenizer = load_base(
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
    if new_tokens(base):
        add_tokens_of(base, model, tokenizer)
    return model, tokenizer


def add_tokens_of(
    base: BaseSection, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """`add_tokens` with the section's new tokens; returns their ids."""
    return add_tokens(
        model, tokenizer, base.add_tokens or [], special_tokens=base.add_special_tokens or []
    )


def load_tokenizer_of_base(
    base: BaseSection,
) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig]:
    """As `load_tokenizer_of`, with the section's new tokens."""
    tokenizer, config = load_tokenizer_of(base.model, revision=base.revision)
    if new_tokens(base):
        add_to_tokenizer(tokenizer, base.add_tokens or [], base.add_special_tokens or [])
    return tokenizer, config


def new_tokens(base: BaseSection) -> list[str]:
    """Every token the section adds."""
    return [*(base.add_tokens or []), *(base.add_special_tokens or [])]


def token_ids_of(tokenizer: PreTrainedTokenizerBase, base: BaseSection) -> list[int]:
    """Ids of the section's new tokens, which `tokenizer` has by now."""
    ids = tokenizer.convert_tokens_to_ids(new_tokens(base))
    assert isinstance(ids, list)
    return ids
