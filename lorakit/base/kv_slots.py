"""Keys and values of many sequences of different lengths, kept between forward passes.

Every sequence has a slot of its own. A forward pass is one row of tokens: first one token for each
occupied slot, then whole prompts, which take the next free slots. Nothing is padded. A prompt that
several sequences begin with is in the row once; its keys and values are copied to their slots.

S slots in use, K key/value heads, T tokens of the pass, D head size, E value head size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar, cast

import torch

from lorakit import kernels
from lorakit.base.kv_groups import LayerMemory, Room

# On a CPU, so many neighbouring slots are attended to at a time, up to the longest of them: with
# lengths from 10 to 400, a third less is read than up to the longest of all (64 slots, head size
# 64: 1.6 ms against 2.7 ms). A GPU rather takes all slots in one launch.
GROUP = 16

Made = TypeVar("Made")


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


class _Write(NamedTuple):
    """Tokens of a pass's row that one group keeps, and their slots and places in it."""

    group: int
    tokens: slice
    slots: torch.Tensor
    positions: torch.Tensor


class KVSlots:
    """Keys and values, layer by layer, and the layout of the coming forward pass.

    Occupied slots are always the first ones, so that views hold all of a group.

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
        self._group = GROUP if kernels.computing_type(device) == "cpu" else num_slots
        # Of each group. Layers get them in the pass, one after another, so that old and new memory
        # of one layer alone are there together.
        self._rooms: list[Room] = []
        self._reserved: list[int] = []
        # By the order of the calls in a pass: DiffLlama calls attention twice in each layer.
        self._layers: list[LayerMemory] = []
        self._num_calls = 0
        self._made: dict[Hashable, object] = {}
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
        self._made.clear()
        self._choose_rooms()
        positions_T = torch.tensor(positions, dtype=torch.int64, device=self.device)
        self._writes = list(self._writes_of(slots, positions_T))
        self._lengths_S = torch.tensor(self.lengths, dtype=torch.int64, device=self.device)
        # On the host: attention inside each prompt reads it as numbers.
        self.cu_seqlens = torch.tensor([0, *prompt_lengths], dtype=torch.int64).cumsum(0).int()
        return positions_T[None]

    def copy_prompts(self) -> None:
        """After a pass: give the slots that share one of its prompts what it left in the first."""
        for slot, end, length in self._copies:
            for layer in self._layers:
                layer.copy(slot, range(slot + 1, end), length)

    def reserve(self, lengths: Sequence[int]) -> None:
        """Let the coming pass make room for so many tokens of each slot; see `pretend`."""
        self._reserved = list(lengths)

    def pretend(self, lengths: Sequence[int]) -> None:
        """As if the occupied slots held so many tokens, zeros where none was stored."""
        assert len(lengths) == len(self.lengths)
        self.lengths, self._reserved = list(lengths), []

    def once_a_pass(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gives, made once for all layers of a pass that ask for the same."""
        if key not in self._made:
            self._made[key] = make()
        return cast(Made, self._made[key])

    def store(
        self,
        key_KTD: torch.Tensor,
        value_KTE: torch.Tensor,
        sliding_window: int | None,
        *,
        both_TKD: torch.Tensor | None = None,
    ) -> Iterator[Continued]:
        """Keep what the pass's next attention layer computed for its tokens.

        Args:
            both_TKD: the heads of the keys and behind them those of the values, where one tensor
                has them all.

        Returns:
            The continued slots in their order, a group at a time.
        """
        if self._num_calls == len(self._layers):
            self._layers.append(LayerMemory(self._group))
        layer = self._layers[self._num_calls]
        self._num_calls += 1
        layer.make_room(self._rooms, key_KTD, value_KTE)
        for group, tokens, slots, positions in self._writes:
            memory = layer.groups[group]
            if both_TKD is not None:
                memory.tensors[0][slots, :, positions] = both_TKD[tokens]
            else:
                memory.keys[slots, :, positions] = key_KTD[:, tokens].transpose(0, 1)
                memory.values[slots, :, positions] = value_KTE[:, tokens].transpose(0, 1)
        for start in range(0, self.num_decoding, self._group):
            tokens = slice(start, min(start + self._group, self.num_decoding))
            longest = max(self.lengths[tokens])
            memory = layer.groups[start // self._group]
            kept = slice(tokens.stop - start), slice(None), slice(longest)
            mask = self._mask(tokens, longest, sliding_window, memory.keys.dtype)
            yield Continued(tokens, memory.keys[kept], memory.values[kept], mask)

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
        lengths = [self.lengths[source] for source in order]
        self._make_room_for(lengths)
        # Front to back: every source lies behind its place, and no place before it needs it.
        for place, source in enumerate(order):
            if place != source:
                for layer in self._layers:
                    layer.copy(source, range(place, place + 1), lengths[place])
        self.lengths = lengths
        return order

    def _mask(
        self, group: slice, longest: int, window: int | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """Made once for all layers of the pass that have this window."""
        if window is not None and window >= longest:
            window = None

        def make() -> torch.Tensor:
            position_L = torch.arange(longest, device=self.device)
            lengths_S1 = self._lengths_S[group, None]
            hidden_SL = position_L >= lengths_S1
            if window is not None:
                hidden_SL |= position_L < lengths_S1 - window
            zeros_SL = torch.zeros(hidden_SL.shape, dtype=dtype, device=self.device)
            return zeros_SL.masked_fill_(hidden_SL, -torch.inf)

        return self.once_a_pass((group.start, window, dtype), make)

    def _choose_rooms(self) -> None:
        """As `lengths` need them; what is large enough stays as it is, and is the same object where
        nothing changes."""
        rooms = []
        for number, start in enumerate(range(0, len(self.lengths), self._group)):
            members = slice(start, start + self._group)
            slots = min(self._group, self.num_slots - start)
            room = self._rooms[number] if number < len(self._rooms) else Room()
            longest = max(*self.lengths[members], *self._reserved[members], 0)
            rooms.append(room.for_at_least(len(self.lengths[members]), longest, group=slots))
        if rooms != self._rooms:
            self._rooms = rooms

    def _make_room_for(self, lengths: Sequence[int]) -> None:
        """Before sequences move. Groups in front are the longer ones, so there is room but where
        one of them has ended and a longer one joined behind."""
        for number, room in enumerate(self._rooms):
            longest = max(lengths[number * self._group :][: self._group], default=0)
            self._rooms[number] = room.for_at_least(room.slots, longest, group=room.slots)
            for layer in self._layers:
                layer.resize(number, self._rooms[number])

    def _writes_of(self, slots: Sequence[int], positions_T: torch.Tensor) -> Iterator[_Write]:
        """Where the row's tokens go; their slots ascend."""
        places = [slot % self._group for slot in slots]
        places_T = torch.tensor(places, dtype=torch.int64, device=self.device)
        start = 0
        for number, members in groupby(slot // self._group for slot in slots):
            tokens = slice(start, start + sum(1 for _ in members))
            yield _Write(number, tokens, places_T[tokens], positions_T[tokens])
            start = tokens.stop
