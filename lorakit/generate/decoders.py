"""Two ways from tokens to hidden states with a key/value cache.

SlotDecoder   one row without padding, sequences join and leave at any step: models with our own
              attention whose family may be packed
RowDecoder    transformers' own cache (or none, where a family's is wrong), prompts of equal length
              together: every other model

Sequences that begin with the same prompt join together: it is computed once, and what is kept of it
copied to each.

S running sequences, N joining ones, T tokens of a forward pass, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


# Of a larger group a part joins once so many of all slots are free: more parts would compute their
# prompt more often, fewer would leave more slots empty.
PART = 4


@dataclass(frozen=True)
class Prompt:
    """A prompt, and how many sequences begin with it."""

    ids: Sequence[int]
    count: int = 1


class Decoder(Protocol):
    """Keeps what the running sequences computed so far, in the order they joined in."""

    def joining(self, waiting: Iterable[Prompt], num_running: int) -> list[int]:
        """How many sequences of each waiting prompt, from the first one on, join the next step."""
        ...

    def step(self, tokens: Sequence[int], prompts: Sequence[Prompt]) -> torch.Tensor:
        """One forward pass.

        Args:
            tokens: the newest token of each running sequence.
            prompts: whose sequences join, behind them.

        Returns:
            (S + N, D) hidden states of each sequence's last token.
        """
        ...

    def pretend(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        """Instead of what it keeps, keep as much as so many sequences take when they are long.

        Args:
            prompts: that they began with, one of each, so many as may run together.
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
        self._slots = KVSlots(max_batch, model.device)

    def joining(self, waiting: Iterable[Prompt], num_running: int) -> list[int]:
        free = self._slots.num_slots - num_running
        counts: list[int] = []
        num_tokens = 0
        for prompt in waiting:
            num_tokens += len(prompt.ids)
            if counts and num_tokens > PROMPT_TOKENS:
                break
            count = min(prompt.count, free)
            is_part = count < prompt.count and count * PART < self._slots.num_slots
            if count == 0 or is_part:
                break
            counts.append(count)
            free -= count
        return counts

    def step(self, tokens: Sequence[int], prompts: Sequence[Prompt]) -> torch.Tensor:
        lengths, counts = [len(prompt.ids) for prompt in prompts], [one.count for one in prompts]
        position_ids = self._slots.layout_pass(lengths, counts)
        row = [*tokens, *(token for prompt in prompts for token in prompt.ids)]
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
        self._slots.copy_prompts()
        last = torch.tensor([1] * len(tokens) + lengths).cumsum(0) - 1
        last = last.repeat_interleave(torch.tensor([1] * len(tokens) + counts))
        return hidden_TD[last.to(self._device)]

    def pretend(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        self._slots.free(range(len(self._slots.lengths)))
        # In this pass they get room for all that they and the next token take; of the prompts one
        # token each is enough.
        self._slots.reserve([length + 1 for length in lengths])
        self.step([], [Prompt(prompt[:1]) for prompt in prompts])
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

    def joining(self, waiting: Iterable[Prompt], num_running: int) -> list[int]:
        free = 0 if num_running > 0 else self._max_batch
        counts: list[int] = []
        length = None
        for prompt in waiting:
            length = len(prompt.ids) if length is None else length
            if free == 0 or len(prompt.ids) != length:
                break
            counts.append(min(prompt.count, free))
            free -= counts[-1]
        return counts

    def step(self, tokens: Sequence[int], prompts: Sequence[Prompt]) -> torch.Tensor:
        if prompts:
            self._rows, self._cache = [list(prompt.ids) for prompt in prompts], {}
        else:
            self._rows = [[*row, token] for row, token in zip(self._rows, tokens, strict=True)]
        new = self._rows if not self._cache else [row[-1:] for row in self._rows]
        outputs = self._backbone(
            input_ids=torch.tensor(new, device=self._device), use_cache=self._cached, **self._cache
        )
        if self._cached:
            # Recurrent Gemma gives none away: its rows are computed whole, too.
            self._cache = {name: outputs[name] for name in CACHE_NAMES if name in outputs}
        hidden_SD = outputs.last_hidden_state[:, -1]
        if len(prompts) == sum(prompt.count for prompt in prompts):
            return hidden_SD
        rows = [row for row, prompt in enumerate(prompts) for _ in range(prompt.count)]
        return hidden_SD[self._choose(rows)]

    def pretend(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        longest = max(lengths)
        rows = [[*prompt, *[prompt[0]] * (longest - len(prompt))] for prompt in prompts]
        if not self._cached:  # what is kept is the tokens alone
            self._rows = rows
        elif kernels.is_rehearsal():
            self.step([], [Prompt(row) for row in rows])
        else:  # one pass over all of these tokens would take more than answers ever do
            self.step([], [Prompt(prompt) for prompt in prompts])
            for row_length in range(len(prompts[0]), longest):
                self.step([row[row_length] for row in rows], [])

    def free(self, finished: Sequence[int]) -> list[int]:
        gone = set(finished)
        order = [place for place in range(len(self._rows)) if place not in gone]
        self._choose(order)
        return order

    def _choose(self, rows: Sequence[int]) -> torch.Tensor:
        """Go on with these rows, some of them several times; int64 (S,) their numbers."""
        self._rows = [list(self._rows[row]) for row in rows]
        chosen = torch.tensor(rows, dtype=torch.int64, device=self._device)
        for cache in self._cache.values():
            cache.reorder_cache(chosen)
        return chosen
