"""Handles of rows: what each means, and where it stands, without holding it."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, overload

import numpy as np

from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.sources import Row

HANDLE_BYTES = 100  # of a `Meaning`, its number and its place in a list


class Rows(Protocol):
    """Rows by position; `row_set.RowSet` is the rows of a set as they were read."""

    @property
    def held_bytes(self) -> int: ...

    def forget(self) -> None: ...

    def row(self, index: int) -> Row: ...

    def location(self, index: int) -> str: ...

    def conversation(self, index: int) -> Conversation | PlainText: ...

    def content_hash(self, index: int) -> bytes: ...

    def said_hash(self, index: int) -> bytes: ...

    def identity(self, indices: np.ndarray) -> bytes: ...


class Meaning:
    """A row, what it means, and how often it is seen per epoch.

    A handle: the row is read again where its set is too large to be held.
    """

    __slots__ = ("_index", "_rows", "weight")

    def __init__(self, rows: Rows, index: int, weight: float) -> None:
        self._rows, self._index, self.weight = rows, index, weight

    @property
    def row(self) -> Row:
        """The row as read."""
        return self._rows.row(self._index)

    @property
    def location(self) -> str:
        """Where it stands."""
        return self._rows.location(self._index)

    @property
    def conversation(self) -> Conversation | PlainText:
        """What it means."""
        return self._rows.conversation(self._index)

    @property
    def content_hash(self) -> bytes:
        """SHA-256 over what the row means: equal for two rows that train the same."""
        return self._rows.content_hash(self._index)

    @property
    def said_hash(self) -> bytes:
        """SHA-256 over what user and assistant say, white space aside: equal for two rows of
        which one tells the answer of the other, whatever system message or weights they have."""
        return self._rows.said_hash(self._index)


class Meanings(Sequence[Meaning]):
    """The meanings of many rows: 20 bytes for each, where a handle and its number take a hundred.
    Handles are made when they are asked for.

    Attributes:
        weights: float64 (rows,), how often each is seen per epoch.
    """

    def __init__(self, meanings: Iterable[Meaning]) -> None:
        sets: dict[int, int] = {}
        self._sets: list[Rows] = []
        places, numbers, weights = array("q"), array("i"), array("d")
        for one in meanings:
            if id(one._rows) not in sets:
                sets[id(one._rows)] = len(self._sets)
                self._sets.append(one._rows)
            numbers.append(sets[id(one._rows)])
            places.append(one._index)
            weights.append(one.weight)
        # Copied, for arrays that grow have room to spare.
        self._numbers, self._places = np.array(numbers, np.int32), np.array(places, np.int64)
        self.weights = np.array(weights, np.float64)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Meaning: ...

    @overload
    def __getitem__(self, index: slice) -> list[Meaning]: ...

    def __getitem__(self, index: int | slice) -> Meaning | list[Meaning]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        rows = self._sets[self._numbers[index]]
        return Meaning(rows, int(self._places[index]), float(self.weights[index]))

    @property
    def row_sets(self) -> list[Rows]:
        """The sets that the rows are of."""
        return list(self._sets)

    @property
    def held_bytes(self) -> int:
        """Bytes of memory, rows not counted."""
        return self._numbers.nbytes + self._places.nbytes + self.weights.nbytes


def held_by(meanings: Sequence[Meaning]) -> tuple[int, list[Rows]]:
    """Bytes of memory that handles take, rows not counted, and the sets that their rows are of."""
    if isinstance(meanings, Meanings):
        return meanings.held_bytes, meanings.row_sets
    return HANDLE_BYTES * len(meanings), Meanings(meanings).row_sets


def identities(meanings: Iterable[Meaning]) -> Iterator[bytes]:
    """What the meanings are and where they stand (findings name places), as bytes to be hashed."""
    for _, grouped in itertools.groupby(meanings, key=lambda meaning: id(meaning._rows)):
        run = list(grouped)
        yield run[0]._rows.identity(np.array([meaning._index for meaning in run]))
