"""The memory that slots of keys and values have (see `kv_slots.py`): neighbouring ones share it.

It is made for a group of slots, layer by layer, grows with the longest of them, and goes when they
are all empty: what is held follows what is alive.

K key/value heads, D head size, E value head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

# Slots grow in steps of so many tokens, long ones in steps of up to an eighth of their length: the
# copies are a small part of what attention reads meanwhile, and the steps small beside an answer.
GROWTH = 64
LONG_GROWTH = 8
# Where groups are large, there is memory for a multiple of so many slots.
ROWS = 16


def capacity_of(longest: int) -> int:
    """Tokens that each slot of a group has room for, whose longest sequence has so many."""
    octave = 1 << max(0, longest.bit_length() - 1)
    step = max(GROWTH, octave // LONG_GROWTH)
    return -(-longest // step) * step


class Room(NamedTuple):
    """What a group has memory for: its first slots, and tokens of each."""

    slots: int = 0
    tokens: int = 0

    def for_at_least(self, slots: int, longest: int, *, group: int) -> Room:
        """This one where it is large enough, else one that is.

        Args:
            group: slots that there are.
        """
        if slots <= self.slots and longest <= self.tokens:
            return self
        return Room(min(-(-slots // ROWS) * ROWS, group), capacity_of(longest))


class GroupMemory:
    """Keys and values of a group's slots in one layer.

    Attributes:
        keys, values: (slots, K, tokens, D) and (slots, K, tokens, E).
        tensors: both of them as one where one shape fits both, so that what is stored or copied
            takes one op: (slots, 2 K, tokens, D).
    """

    def __init__(self, room: Room, shapes: Sequence[tuple[int, int]], like: torch.Tensor) -> None:
        self.room, self._shapes = room, shapes
        (heads, size), (_, value_size) = shapes
        is_one = size == value_size
        # Zeros, because a masked key's weight of 0 times garbage may be NaN.
        self.tensors = tuple(
            like.new_zeros(room.slots, count, room.tokens, width)
            for count, width in ([(2 * heads, size)] if is_one else shapes)
        )
        first, last = self.tensors[0], self.tensors[-1]
        self.keys, self.values = (first[:, :heads], first[:, heads:]) if is_one else (first, last)

    def resized(self, room: Room) -> GroupMemory:
        """With other room, and what was kept as far as both have it."""
        found = GroupMemory(room, self._shapes, self.tensors[0])
        slots, tokens = map(min, room, self.room)
        for new, old in zip(found.tensors, self.tensors, strict=True):
            new[:slots, :, :tokens] = old[:slots, :, :tokens]
        return found


class LayerMemory:
    """Of all slots in one attention layer.

    Args:
        group_size: slots of a group.

    Attributes:
        groups: in the order of their slots.
    """

    def __init__(self, group_size: int) -> None:
        self.groups: list[GroupMemory] = []
        self._group_size = group_size
        self._rooms: Sequence[Room] = ()

    def make_room(
        self, rooms: Sequence[Room], key_KTD: torch.Tensor, value_KTE: torch.Tensor
    ) -> None:
        """Let each group have the room that is given; further ones go.

        Args:
            rooms: the same object as before where nothing changed.
            key_KTD, value_KTE: like what is to be kept.
        """
        if rooms is self._rooms:
            return
        del self.groups[len(rooms) :]
        for number, room in enumerate(rooms):
            if number == len(self.groups):
                shapes = [(len(heads), heads.shape[-1]) for heads in (key_KTD, value_KTE)]
                self.groups.append(GroupMemory(room, shapes, key_KTD))
            else:
                self.resize(number, room)
        self._rooms = rooms

    def resize(self, number: int, room: Room) -> None:
        """Let a group have the room that is given."""
        if self.groups[number].room != room:
            self.groups[number] = self.groups[number].resized(room)

    def copy(self, source: int, slots: range, length: int) -> None:
        """Give slots what another one keeps.

        Args:
            length: tokens of it.
        """
        size = self._group_size
        kept = self.groups[source // size].tensors
        for number in range(slots.start // size, -(-slots.stop // size)):
            rows = slice(max(0, slots.start - number * size), slots.stop - number * size)
            for new, old in zip(self.groups[number].tensors, kept, strict=True):
                new[rows, :, :length] = old[source % size, :, :length]
