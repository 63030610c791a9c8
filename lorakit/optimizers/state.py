"""The moments of all parameters as flat tensors, and where they live: on the device for good, or
in host memory and on the device a page at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from lorakit.optimizers.layout import Layout, Page

Fields = dict[str, torch.Tensor]


class FlatState:
    """Every field of every region in one place, zero at first.

    Args:
        layout: of the parameters.
        device: where.
        pin_memory: page-lock it, so that a GPU copies from and to it by itself.
    """

    def __init__(self, layout: Layout, device: torch.device, *, pin_memory: bool = False) -> None:
        self._layout = layout
        self._fields: tuple[Fields, ...] = tuple(
            {
                name: torch.zeros(
                    -(-(region.stop - region.start) // field.span),
                    dtype=field.dtype,
                    device=device,
                    pin_memory=pin_memory,
                )
                for name, field in region.fields().items()
            }
            for region in layout.regions
        )

    def page(self, page: Page) -> Fields:
        """The fields of a page: views."""
        return self._part(page.region, page.start, page.stop)

    def named(self) -> Fields:
        """`FIELD.NAME` of every parameter: views; in its shape where there is an item for each."""
        named = {}
        for name, place in self._layout.places.items():
            part = self._part(place.region, place.start, place.stop)
            spans = self._layout.regions[place.region].fields()
            for field, tensor in part.items():
                whole = tensor.view(place.shape) if spans[field].span == 1 else tensor
                named[f"{field}.{name}"] = whole
        return named

    def _part(self, region: int, start: int, stop: int) -> Fields:
        return self._layout.regions[region].part(self._fields[region], start, stop)


@dataclass
class Traffic:
    """What moved, and how much was on the device at most.

    Attributes:
        pages_in, pages_out: copied to the device, and back.
        evicted: pages that made room for something else, by `evict`.
        peak_bytes: of state on the device.
    """

    pages_in: int = 0
    pages_out: int = 0
    evicted: int = 0
    peak_bytes: int = 0


class State(Protocol):
    """Where the moments live."""

    traffic: Traffic

    @property
    def resident_bytes(self) -> int:
        """Bytes of state on the device now."""

    def visit(self, order: Sequence[int]) -> Iterator[tuple[Page, Fields]]:
        """Pages by their index, each with its fields on the device, to be updated in place."""

    def settled(self) -> FlatState:
        """The whole state, nothing left to be copied. What is written to it while no page is on
        the device counts."""

    def evict(self, num_bytes: int) -> int:
        """Take pages off the device until `num_bytes` are free; returns how many are."""

    def begin_anew(self) -> None:
        """As if no page had been visited: none on the device, none counted."""


class ResidentState:
    """Everything stays on the device."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._pages = layout.pages
        self._state = FlatState(layout, device)
        self.resident_bytes = layout.state_bytes
        self.traffic = Traffic(peak_bytes=layout.state_bytes)

    def visit(self, order: Sequence[int]) -> Iterator[tuple[Page, Fields]]:
        for index in order:
            yield self._pages[index], self._state.page(self._pages[index])

    def settled(self) -> FlatState:
        return self._state

    def evict(self, num_bytes: int) -> int:
        return 0

    def begin_anew(self) -> None:
        pass


@dataclass
class _Frame:
    """A page on the device.

    Attributes:
        fields: its fields.
        copied: when the last copy from or to the host is done; None: it is.
        is_newer: than the host's.
    """

    fields: Fields
    copied: torch.cuda.Event | None
    is_newer: bool = False


class PagedState:
    """The state in host memory; at most `budget` bytes of it are on the device.

    While a page is updated the next one is on its way; updated pages are copied back at once when
    not all of them fit, so that the least recently used one can go without waiting. On a GPU the
    copies run beside the computation, on a stream of their own. On a CPU the device is the same
    memory: nothing is saved, and everything else is the same.

    Args:
        layout: of the parameters.
        device: where they are updated.
        budget: in bytes, at least `layout.smallest_budget`.
    """

    def __init__(self, layout: Layout, device: torch.device, budget: int) -> None:
        assert budget >= layout.smallest_budget
        self._pages = layout.pages
        self._budget = budget
        self._all_fit = layout.state_bytes <= budget
        self._host = FlatState(layout, torch.device("cpu"), pin_memory=device.type == "cuda")
        self._frames: OrderedDict[int, _Frame] = OrderedDict()  # the least recently used first
        self._copies = _Copies(device)
        self.resident_bytes = 0
        self.traffic = Traffic()

    def visit(self, order: Sequence[int]) -> Iterator[tuple[Page, Fields]]:
        for place, index in enumerate(order):
            frame = self._fetch(index)
            if place + 1 < len(order):
                self._fetch(order[place + 1])
            self._copies.wait(frame.copied)
            yield self._pages[index], frame.fields
            frame.is_newer = True
            if not self._all_fit:
                self._write_back(index)

    def settled(self) -> FlatState:
        for index in self._frames:
            self._write_back(index)
        self._copies.finish()
        return self._host

    def evict(self, num_bytes: int) -> int:
        before = self.resident_bytes
        while self._frames and before - self.resident_bytes < num_bytes:
            self._drop(next(iter(self._frames)))
            self.traffic.evicted += 1
        return before - self.resident_bytes

    def begin_anew(self) -> None:
        self.evict(self.resident_bytes)
        self.traffic = Traffic()

    def _fetch(self, index: int) -> _Frame:
        """The page on the device, or on its way; now the most recently used one."""
        if index not in self._frames:
            page = self._pages[index]
            while self.resident_bytes + page.num_bytes > self._budget:
                self._drop(next(iter(self._frames)))
            on_host = self._host.page(page)
            fields = {
                n: torch.empty_like(t, device=self._copies.device) for n, t in on_host.items()
            }
            self._frames[index] = _Frame(fields, self._copies.copy(on_host, fields))
            self.resident_bytes += page.num_bytes
            self.traffic.pages_in += 1
            self.traffic.peak_bytes = max(self.traffic.peak_bytes, self.resident_bytes)
        self._frames.move_to_end(index)
        return self._frames[index]

    def _write_back(self, index: int) -> None:
        frame = self._frames[index]
        if frame.is_newer:
            frame.copied = self._copies.copy(frame.fields, self._host.page(self._pages[index]))
            frame.is_newer = False
            self.traffic.pages_out += 1

    def _drop(self, index: int) -> None:
        self._write_back(index)
        # What is computed later may get this memory: not before the copy has read it.
        self._copies.wait(self._frames.pop(index).copied)
        self.resident_bytes -= self._pages[index].num_bytes


class _Copies:
    """Copies between host and device: one after the other beside a GPU's computation, on a CPU at
    once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, source: Fields, target: Fields) -> torch.cuda.Event | None:
        """Copy after everything that was computed or copied before this call.

        Returns:
            When it is done; None: it is.
        """
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            for name, tensor in source.items():
                target[name].copy_(tensor, non_blocking=True)
        return None if self._stream is None else self._stream.record_event()

    def wait(self, copied: torch.cuda.Event | None) -> None:
        """Let what is computed from now on wait for a copy."""
        if copied is not None:
            torch.cuda.current_stream(self.device).wait_event(copied)

    def finish(self) -> None:
        """Wait until the host can read what was copied."""
        if self._stream is not None:
            self._stream.synchronize()
