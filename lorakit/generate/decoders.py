"""Two ways from tokens to hidden states with a key/value cache.

SlotDecoder   one row without padding, sequences join and leave at any step: models with our own
              attention whose family may be packed
RowDecoder    transformers' own cache (or none, where a family's is wrong), prompts of equal length
              together: every other model

S running sequences, N joining ones, T tokens of a forward pass, D hidden size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.base import attention
from lorakit.base.families import family_of, why_not_packed
from lorakit.base.head import backbone
from lorakit.base.kv_slots import KVSlots

# Prompt tokens of one forward pass: enough to keep the device busy, few enough that the hidden
# states of a pass stay small. A longer prompt passes alone.
PROMPT_TOKENS = 4096

# What transformers' backbones call their cache, in outputs and arguments alike.
CACHE_NAMES = ("past_key_values", "cache_params")


class Decoder(Protocol):
    """Keeps what the running sequences computed so far, in the order they joined in."""

    def joining(self, waiting: Sequence[Sequence[int]], num_running: int) -> int:
        """How many of the waiting prompts, from the first one on, join the next step."""
        ...

    def step(self, tokens: Sequence[int], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """One forward pass.

        Args:
            tokens: the newest token of each running sequence.
            prompts: that join, behind them.

        Returns:
            (S + N, D) hidden states of each sequence's last token.
        """
        ...

    def pretend(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        """Instead of what it keeps, keep as much as so many sequences take when they are long.

        Args:
            prompts: that they began with, so many as may run together.
            lengths: tokens of each, its prompt included.
        """
        ...

    def free(self, finished: Sequence[int]) -> list[int]:
        """Forget sequences.

        Args:
            finished: their places among the running ones.

        Returns:
            The old place of each sequence that runs on, in its new order.
        """
        ...


def decoder_for(model: PreTrainedModel, max_batch: int) -> Decoder:
    """The faster way that this model allows."""
    ours = model.config._attn_implementation == attention.NAME
    if ours and why_not_packed(model.config) is None:
        return SlotDecoder(model, max_batch)
    return RowDecoder(model, max_batch)


class SlotDecoder:
    """All tokens of a step in one row, whatever their sequences' lengths."""

    def __init__(self, model: PreTrainedModel, max_batch: int) -> None:
        self._backbone = backbone(model)
        self._device = model.device
        self._max_batch = max_batch
        self._slots = KVSlots(max_batch, model.device)

    def joining(self, waiting: Sequence[Sequence[int]], num_running: int) -> int:
        count = num_tokens = 0
        for prompt in waiting[: self._slots.num_slots - num_running]:
            num_tokens += len(prompt)
            if count > 0 and num_tokens > PROMPT_TOKENS:
                break
            count += 1
        return count

    def step(self, tokens: Sequence[int], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        lengths = [len(prompt) for prompt in prompts]
        position_ids = self._slots.layout_pass(lengths)
        row = [*tokens, *(token for prompt in prompts for token in prompt)]
        outputs = self._backbone(
            input_ids=torch.tensor([row], device=self._device),
            # Passed through untouched, and of a shape that fits no scores: a family that drops the
            # slots fails, rather than letting sequences see each other.
            attention_mask=torch.empty(1, 1, 0, 0, device=self._device),
            position_ids=position_ids,
            use_cache=False,
            kv_slots=self._slots,
        )
        hidden_TD = outputs.last_hidden_state[0]
        if not prompts:
            return hidden_TD
        last = torch.tensor([1] * len(tokens) + lengths).cumsum(0) - 1
        return hidden_TD[last.to(self._device)]

    def pretend(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        self._slots = KVSlots(self._max_batch, self._device)
        # Room for the longest from the first pass on; of the prompts one token each is enough.
        self._slots.reserve(max(lengths))
        self.step([], [prompt[:1] for prompt in prompts])
        self._slots.pretend(lengths)

    def free(self, finished: Sequence[int]) -> list[int]:
        return self._slots.free(finished)


class RowDecoder:
    """A row for each sequence, all of the same length."""

    def __init__(self, model: PreTrainedModel, max_batch: int) -> None:
        self._backbone = backbone(model)
        self._device = model.device
        self._max_batch = max_batch
        self._cached = family_of(model.config).no_cache is None
        self._rows: list[list[int]] = []
        self._cache: dict[str, Any] = {}

    def joining(self, waiting: Sequence[Sequence[int]], num_running: int) -> int:
        if num_running > 0:
            return 0
        alike = itertools.takewhile(lambda prompt: len(prompt) == len(waiting[0]), waiting)
        return min(sum(1 for _ in alike), self._max_batch)

    def step(self, tokens: Sequence[int], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        if prompts:
            self._rows, self._cache = [list(prompt) for prompt in prompts], {}
        else:
            self._rows = [[*row, token] for row, token in zip(self._rows, tokens, strict=True)]
        new = self._rows if not self._cache else [row[-1:] for row in self._rows]
        outputs = self._backbone(
            input_ids=torch.tensor(new, device=self._device), use_cache=self._cached, **self._cache
        )
        if self._cached:
            # Recurrent Gemma gives none away: its rows are computed whole, too.
            self._cache = {name: outputs[name] for name in CACHE_NAMES if name in outputs}
        return outputs.last_hidden_state[:, -1]

    def pretend(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        longest = max(lengths)
        rows = [[*prompt, *[prompt[0]] * (longest - len(prompt))] for prompt in prompts]
        if not self._cached:  # what is kept is the tokens alone
            self._rows = rows
        elif kernels.is_rehearsal():
            self.step([], rows)
        else:  # one pass over all of these tokens would take more than answers ever do
            self.step([], prompts)
            for row_length in range(len(prompts[0]), longest):
                self.step([row[row_length] for row in rows], [])

    def free(self, finished: Sequence[int]) -> list[int]:
        gone = set(finished)
        order = [place for place in range(len(self._rows)) if place not in gone]
        self._rows = [self._rows[place] for place in order]
        kept = torch.tensor(order, dtype=torch.int64, device=self._device)
        for cache in self._cache.values():
            cache.reorder_cache(kept)
        return order
