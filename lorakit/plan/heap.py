"""What a CPU's C library holds for tensors that come and go: more than lives (glibc's malloc).

A model of glibc's main arena for large blocks: the smallest hole that is large enough is used, what
is left of it stays a hole, neighbouring holes are joined, the end of the heap grows and shrinks.
Blocks are asked for by posix_memalign, which wants 96 bytes more than it keeps: what precedes the
aligned block is a piece of 48 bytes or so of its own. Some of those pieces are given to small
objects that stay, and then part two holes. Which ones is chance: `PINNED` of them is what fits runs
that were measured (docs/log.md), and the one number here that is not from glibc's source.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence
from dataclasses import dataclass

PAGE = 4096
LARGEST_THRESHOLD = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX of a 64-bit system
FIRST_THRESHOLD = 128 << 10
TOP_PAD = 128 << 10
TRIMMED_FROM = 128 << 10  # M_TRIM_THRESHOLD, which follows the other one only if that is not fixed
OVERHEAD = 8
ALIGNMENT = 96  # 64, and the least size of a block
LEAD = 48
PINNED = 0.03
# After so many steps alike the heap hardly grows any more.
NUM_STEPS = 6


@dataclass(frozen=True)
class Heap:
    """That of a process.

    Attributes:
        mapped_from: bytes from which a block comes from the system and goes back to it (see
            `train/heap.py`); None: glibc's own choice, which follows what is freed.
    """

    mapped_from: int | None = None

    def resident_peak(self, events: Sequence[tuple[int, int]]) -> int:
        """Bytes that are resident at most, when a pass is made again and again.

        Args:
            events: of one pass, see `Ledger`.
        """
        arena = _Arena(self.mapped_from)
        for step in range(NUM_STEPS):
            for number, num_bytes in events:
                if num_bytes:
                    arena.allocate((step, number), num_bytes)
                else:
                    arena.free((step, number))
        return arena.peak


class _Arena:
    def __init__(self, mapped_from: int | None) -> None:
        self.peak = 0
        self._follows = mapped_from is None
        self._threshold = FIRST_THRESHOLD if mapped_from is None else mapped_from
        self._top = self._break = 0  # of the heap: where it is used up to, and where it ends
        self._mapped = 0
        self._holes: list[tuple[int, int]] = []  # (size, address), sorted
        self._size_at: dict[int, int] = {}
        self._start_of: dict[int, int] = {}  # {end of a hole: its address}
        self._blocks: dict[tuple[int, int], tuple[int | None, int]] = {}
        self._chance = random.Random(0)

    def allocate(self, key: tuple[int, int], num_bytes: int) -> None:
        size = (num_bytes + OVERHEAD + 15) // 16 * 16
        wanted = size + ALIGNMENT
        lead = LEAD if self._chance.random() < PINNED else 0
        place = bisect.bisect_left(self._holes, (wanted, -1))
        if place < len(self._holes):
            room, start = self._holes[place]
            self._take(start)
            self._blocks[key] = start + lead, size
            self._leave(start + lead + size, room - lead - size)
        elif self._break - self._top < wanted and wanted >= self._threshold:
            mapped = -(-(wanted + OVERHEAD) // PAGE) * PAGE
            self._blocks[key] = None, mapped
            self._mapped += mapped
        else:
            missing = max(0, wanted + TOP_PAD - (self._break - self._top))
            self._break += -(-missing // PAGE) * PAGE if missing > TOP_PAD else 0
            self._blocks[key] = self._top + lead, size
            self._top += lead + size
        self.peak = max(self.peak, self._break + self._mapped)

    def free(self, key: tuple[int, int]) -> None:
        start, size = self._blocks.pop(key)
        if start is None:
            self._mapped -= size
            if self._follows and self._threshold < size <= LARGEST_THRESHOLD:
                self._threshold = size
            return
        if start in self._start_of:
            before = self._start_of[start]
            size += self._take(before)
            start = before
        if start + size in self._size_at:
            size += self._take(start + size)
        if start + size == self._top:
            self._top = start
            if self._break - self._top >= (2 * self._threshold if self._follows else TRIMMED_FROM):
                self._break = -(-(self._top + TOP_PAD) // PAGE) * PAGE
        else:
            self._leave(start, size)

    def _leave(self, start: int, size: int) -> None:
        if size > 0:
            bisect.insort(self._holes, (size, start))
            self._size_at[start] = size
            self._start_of[start + size] = start

    def _take(self, start: int) -> int:
        size = self._size_at.pop(start)
        del self._start_of[start + size]
        self._holes.pop(bisect.bisect_left(self._holes, (size, start)))
        return size
