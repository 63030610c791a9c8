"""Keys and values of many sequences of different lengths, kept between forward passes.

Every sequence has a slot of its own. A forward pass is one row of tokens: first one token for each
occupied slot, then whole prompts, which take the next free slots. Nothing is padded. A prompt that
several sequences begin with is in the row once; its keys and values are copied to their slots.

S slots in use, K key/value heads, C capacity of a slot in tokens, T tokens of the pass, D head
size, E value head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from lorakit import kernels

# Slots grow in steps of so many tokens: large enough to copy rarely, small beside a prompt.
GROWTH = 256

# On a CPU, so many neighbouring slots are attended to at a time, up to the longest of them: with
# lengths from 10 to 400, a third less is read than up to the longest of all (64 slots, head size
# 64: 1.6 ms against 2.7 ms). A GPU rather takes all slots in one launch.
GROUP = 16


class Continued(NamedTuple):
    """Slots that a pass continues with one token each.

    Attributes:
        tokens: their tokens in the pass's row.
        keys, values: (S, K, L, D) and (S, K, L, E) up to the longest of them, L tokens; what lies
            beyond a slot's own length is finite and without meaning.
        mask: (S, L) in the keys' dtype, 0 where the token sees a key, -inf elsewhere.
    """

    tokens: slice
    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor


class KVSlots:
    """Keys and values, layer by layer, and the layout of the coming forward pass.

    Occupied slots are always the first ones, so that views hold all of them.

    Args:
        num_slots: the most sequences at a time.

    Attributes:
        lengths: tokens of each occupied slot, those of the coming pass included.
        num_decoding: tokens at the row's start that continue a slot.
        prompt_lengths: of the prompts behind them.
    """

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self.num_slots = num_slots
        self.device = device
        self.lengths: list[int] = []
        self.num_decoding = 0
        self.prompt_lengths: tuple[int, ...] = ()
        self.capacity = 0
        # By the order of the calls in a pass: DiffLlama calls attention twice in each layer.
        self._group = GROUP if kernels.computing_type(device) == "cpu" else num_slots
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._num_calls = 0
        self._masks: dict[tuple[int, int | None, torch.dtype], torch.Tensor] = {}
        self.layout_pass(())

    def layout_pass(
        self, prompt_lengths: Sequence[int], counts: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Lay out a forward pass: a token for each occupied slot, and new prompts behind them.

        Args:
            prompt_lengths: of the new prompts.
            counts: slots that each of them takes; None: one each. Where it takes more, call
                `copy_prompts` after the pass.

        Returns:
            int64 (1, T) positions of the row's tokens.
        """
        counts = [1] * len(prompt_lengths) if counts is None else counts
        occupied = len(self.lengths)
        assert occupied + sum(counts) <= self.num_slots
        slots, positions = list(range(occupied)), list(self.lengths)
        self._copies: list[tuple[int, int, int]] = []  # (slot, slots of its copies to, tokens)
        lengths = [length + 1 for length in self.lengths]
        for length, count in zip(prompt_lengths, counts, strict=True):
            slots += [len(lengths)] * length
            positions += range(length)
            if count > 1:
                self._copies.append((len(lengths), len(lengths) + count, length))
            lengths += [length] * count
        self.num_decoding = occupied
        self.prompt_lengths = tuple(prompt_lengths)
        self.lengths = lengths
        self._num_calls = 0
        self._masks.clear()
        self._grow()
        self._slots_T = torch.tensor(slots, dtype=torch.int64, device=self.device)
        self._positions_T = torch.tensor(positions, dtype=torch.int64, device=self.device)
        self._lengths_S = torch.tensor(self.lengths, dtype=torch.int64, device=self.device)
        # On the host: attention inside each prompt reads it as numbers.
        self.cu_seqlens = torch.tensor([0, *prompt_lengths], dtype=torch.int64).cumsum(0).int()
        return self._positions_T[None]

    def copy_prompts(self) -> None:
        """After a pass: give the slots that share one of its prompts what it left in the first."""
        for slot, end, length in self._copies:
            for keys, values in self._layers:
                keys[slot + 1 : end, :, :length] = keys[slot, :, :length]
                values[slot + 1 : end, :, :length] = values[slot, :, :length]

    def reserve(self, longest: int) -> None:
        """Make room for sequences of so many tokens; only before anything is stored."""
        assert not self._layers
        self.capacity = max(self.capacity, -(-longest // GROWTH) * GROWTH)

    def pretend(self, lengths: Sequence[int]) -> None:
        """As if the occupied slots held so many tokens, zeros where none was stored."""
        assert len(lengths) == len(self.lengths)
        self.lengths = list(lengths)

    def store(
        self, key_KTD: torch.Tensor, value_KTE: torch.Tensor, sliding_window: int | None
    ) -> Iterator[Continued]:
        """Keep what the pass's next attention layer computed for its tokens.

        Returns:
            The continued slots in their order, a group at a time.
        """
        if self._num_calls == len(self._layers):
            # Zeros, because a masked key's weight of 0 times garbage may be NaN.
            self._layers.append((self._zeros(key_KTD), self._zeros(value_KTE)))
        keys, values = self._layers[self._num_calls]
        self._num_calls += 1
        keys[self._slots_T, :, self._positions_T] = key_KTD.transpose(0, 1)
        values[self._slots_T, :, self._positions_T] = value_KTE.transpose(0, 1)
        for start in range(0, self.num_decoding, self._group):
            group = slice(start, min(start + self._group, self.num_decoding))
            longest = max(self.lengths[group])
            mask = self._mask(group, longest, sliding_window, keys.dtype)
            yield Continued(group, keys[group, :, :longest], values[group, :, :longest], mask)

    def free(self, finished: Sequence[int]) -> list[int]:
        """Give up slots; sequences behind move up into the gaps.

        The longest of the next group moves into a gap: groups that were in the order of their
        lengths stay so, at the price of one copy for each group behind the gap.

        Returns:
            For each slot that is still occupied, the slot its sequence was in.
        """
        gone = set(finished)
        left = [slot for slot in range(len(self.lengths)) if slot not in gone]
        left.sort(key=lambda slot: (slot // self._group, -self.lengths[slot]))
        order: list[int] = []
        for start in range(0, len(left), self._group):
            members = left[start : start + self._group]
            places = range(start, start + len(members))
            movers = iter([slot for slot in members if slot not in places])
            staying = set(members)
            order += [place if place in staying else next(movers) for place in places]
        # Front to back: every source lies behind its place, and no place before it needs it.
        for place, source in enumerate(order):
            if place != source:
                length = self.lengths[source]
                for keys, values in self._layers:
                    keys[place, :, :length] = keys[source, :, :length]
                    values[place, :, :length] = values[source, :, :length]
        self.lengths = [self.lengths[source] for source in order]
        return order

    def _mask(
        self, group: slice, longest: int, window: int | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """Made once for all layers of the pass that have this window."""
        if window is not None and window >= longest:
            window = None
        key = (group.start, window, dtype)
        if key not in self._masks:
            position_L = torch.arange(longest, device=self.device)
            lengths_S1 = self._lengths_S[group, None]
            hidden_SL = position_L >= lengths_S1
            if window is not None:
                hidden_SL |= position_L < lengths_S1 - window
            zeros_SL = torch.zeros(hidden_SL.shape, dtype=dtype, device=self.device)
            self._masks[key] = zeros_SL.masked_fill_(hidden_SL, -torch.inf)
        return self._masks[key]

    def _grow(self) -> None:
        longest = max(self.lengths, default=0)
        if longest <= self.capacity:
            return
        filled = self.capacity
        self.capacity = -(-longest // GROWTH) * GROWTH
        for layer, (keys, values) in enumerate(self._layers):
            grown = self._zeros(keys[0]), self._zeros(values[0])
            grown[0][:, :, :filled] = keys
            grown[1][:, :, :filled] = values
            self._layers[layer] = grown

    def _zeros(self, like_KTD: torch.Tensor) -> torch.Tensor:
        num_heads, _, size = like_KTD.shape
        return like_KTD.new_zeros(self.num_slots, num_heads, self.capacity, size)
