"""How many sequences are continued at a time, and how many layers are dense meanwhile, where nobody
says it: as many as fit.

The plan asks for a machine that need not be here; evaluation, rollouts and whoever calls `generate`
for the memory that is free when they begin. Keys and values are what grows with every sequence;
they are known from the config alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from lorakit.adapters.dense_layers import dense_layer_bytes
from lorakit.base.device_memory import free_bytes
from lorakit.base.dtypes import compute_dtype
from lorakit.base.kv_groups import capacity_of
from lorakit.data.named_sets import context_of
from lorakit.engine.model_flops import RECURRENT

# Larger batches than that were not measured.
MAX_BATCH = 64
# Share of the free memory that dense weights may take: whoever quantizes wants the memory, and here
# it is only lent, until all is written. Of a card of 24 GB with an 8B base in NF4 it is 2 GiB.
DENSE_SHARE = 0.125
# Share of what is left that keys and values may take; the rest is for the passes that make them,
# copies while a cache grows, and fragmentation.
CACHE_SHARE = 0.5
# What configs call the size of a head, or of some.
SIZES = ("head_dim", "kv_channels")


@dataclass(frozen=True)
class AnswerRoom:
    """What there is room for.

    Attributes:
        given: sequences at a time that were asked for; None: as many as fit.
        max_new_tokens: of an answer.
        context: tokens that prompt and answer have together at most; None: no limit.
        token_bytes: keys and values of one token.
        cache_bytes: that keys and values may take.
        dense_bytes: that dense weights may take; see `dense_layers`.
    """

    given: int | None
    max_new_tokens: int
    context: int | None
    token_bytes: int
    cache_bytes: int
    dense_bytes: int

    @staticmethod
    def of(
        model: PreTrainedModel, *, max_new_tokens: int, given: int | None, free_bytes: int | None
    ) -> AnswerRoom:
        """In so much memory.

        Args:
            model: with its adapter; may be on the meta device.
            max_new_tokens: of an answer.
            given: sequences at a time that were asked for; None: as many as fit.
            free_bytes: that answers may take beside weights and adapter; None: it is not known,
                then `MAX_BATCH` and no dense weights.
        """
        cache_bytes, dense_bytes = sys.maxsize, 0
        if free_bytes is not None:
            dense_bytes = _power_of_two(DENSE_SHARE * free_bytes)
            left = free_bytes - dense_layer_bytes(model, dense_bytes)
            cache_bytes = int(CACHE_SHARE * max(0, left))
        return AnswerRoom(
            given,
            max_new_tokens,
            context_of(model.config),
            cache_bytes_per_token(model.config, compute_dtype(model).itemsize),
            cache_bytes,
            dense_bytes,
        )

    @staticmethod
    def here(model: PreTrainedModel, *, max_new_tokens: int, given: int | None) -> AnswerRoom:
        """In what is free now on the device of a loaded model, the allocator's cache included."""
        return AnswerRoom.of(
            model,
            max_new_tokens=max_new_tokens,
            given=given,
            free_bytes=free_bytes(model.device),
        )

    def at_a_time(self, longest_prompt: int) -> int:
        """Answers to prompts of at most so many tokens."""
        if self.given is not None:
            return self.given
        tokens = longest_prompt + self.max_new_tokens
        tokens = tokens if self.context is None else min(tokens, self.context)
        fitting = self.cache_bytes // max(1, capacity_of(tokens) * self.token_bytes)
        return min(MAX_BATCH, max(1, _power_of_two(fitting)))


def _power_of_two(most: float) -> int:
    """The largest that is no more: small differences in free memory make none; 0 below 1."""
    return 1 << (int(most).bit_length() - 1) if most >= 1 else 0


def cache_bytes_per_token(config: PreTrainedConfig, itemsize: int) -> int:
    """Keys and values of one token in all layers, at most: a layer that looks back only so far, or
    keeps a state, takes no more with every token.

    Args:
        config: of the model.
        itemsize: bytes of one number.
    """
    text = config.get_text_config()
    # Which fields a config has differs by model_type. Without heads of their own, keys and values
    # are as wide as the hidden states; where layers differ, all count as the widest.
    fields = text.to_dict()
    layers = [fields, *(fields.get("per_layer_config") or {}).values()]
    attending = _largest(layers, ("num_attention_heads",))
    keys = values = text.hidden_size
    if attending:
        heads = _largest(layers, ("num_key_value_heads",)) or attending
        size = _largest(layers, SIZES) or text.hidden_size // attending
        # Multi-head latent attention: what turns and what does not.
        latent = sum(fields.get(name) or 0 for name in ("qk_nope_head_dim", "qk_rope_head_dim"))
        keys, values = heads * max(size, latent), heads * size
    kinds = fields.get("layer_types") or [""] * text.num_hidden_layers
    return sum((keys + values) * itemsize for kind in kinds if not kind.startswith(RECURRENT))


def _largest(layers: Sequence[Mapping[str, Any]], names: tuple[str, ...]) -> int:
    """Of the fields whose names end so; 0 where there is none."""
    return max(
        (
            value
            for fields in layers
            for name, value in fields.items()
            if name.endswith(names) and isinstance(value, int)
        ),
        default=0,
    )
