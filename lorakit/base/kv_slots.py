"""Keys and values of many sequences of different lengths, kept between forward passes.

Every sequence has a slot of its own. A forward pass is one row of tokens: first one token for each
occupied slot, then whole prompts, which take the next free slots. Nothing is padded.

S slots in use, K key/value heads, C capacity of a slot in tokens, T tokens of the pass, D head
size, E value head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Slots grow in steps of so many tokens: large enough to copy rarely, small beside a prompt.
GROWTH = 256


class KVSlots:
    """Keys and values, layer by layer, and the layout of the coming forward pass.

    Occupied slots are always the first ones, so that a view holds all of them.

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
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._num_calls = 0
        self.layout_pass(())

    def layout_pass(self, prompt_lengths: Sequence[int]) -> torch.Tensor:
        """Lay out a forward pass: a token for each occupied slot, and new prompts behind them.

        Returns:
            int64 (1, T) positions of the row's tokens.
        """
        occupied = len(self.lengths)
        assert occupied + len(prompt_lengths) <= self.num_slots
        slots, positions = list(range(occupied)), list(self.lengths)
        for number, length in enumerate(prompt_lengths):
            slots += [occupied + number] * length
            positions += range(length)
        self.num_decoding = occupied
        self.prompt_lengths = tuple(prompt_lengths)
        self.lengths = [length + 1 for length in self.lengths] + list(prompt_lengths)
        self._num_calls = 0
        self._grow()
        self._slots_T = torch.tensor(slots, dtype=torch.int64, device=self.device)
        self._positions_T = torch.tensor(positions, dtype=torch.int64, device=self.device)
        self.lengths_S = torch.tensor(self.lengths, dtype=torch.int64, device=self.device)
        # On the host: attention inside each prompt reads it as numbers.
        self.cu_seqlens = torch.tensor([0, *prompt_lengths], dtype=torch.int64).cumsum(0).int()
        return self._positions_T[None]

    def store(
        self, key_KTD: torch.Tensor, value_KTE: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep what the pass's next attention layer computed for its tokens.

        Returns:
            Keys (S, K, L, D) and values (S, K, L, E) of the continued slots up to the longest of
            them, L tokens; what lies beyond a slot's own length is finite and without meaning.
        """
        if self._num_calls == len(self._layers):
            # Zeros, because a masked key's weight of 0 times garbage may be NaN.
            self._layers.append((self._zeros(key_KTD), self._zeros(value_KTE)))
        keys, values = self._layers[self._num_calls]
        self._num_calls += 1
        keys[self._slots_T, :, self._positions_T] = key_KTD.transpose(0, 1)
        values[self._slots_T, :, self._positions_T] = value_KTE.transpose(0, 1)
        continued = self.num_decoding
        longest = max(self.lengths[:continued], default=0)
        return keys[:continued, :, :longest], values[:continued, :, :longest]

    def free(self, finished: Sequence[int]) -> list[int]:
        """Give up slots; the last occupied ones move into the gaps.

        Returns:
            For each slot that is still occupied, the slot its sequence was in.
        """
        gone = set(finished)
        left = [slot for slot in range(len(self.lengths)) if slot not in gone]
        gaps = sorted(slot for slot in gone if slot < len(left))
        order = list(range(len(left)))
        for gap, source in zip(gaps, left[len(left) - len(gaps) :], strict=True):
            order[gap] = source
            length = self.lengths[source]
            for keys, values in self._layers:
                keys[gap, :, :length] = keys[source, :, :length]
                values[gap, :, :length] = values[source, :, :length]
        self.lengths = [self.lengths[source] for source in order]
        return order

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
