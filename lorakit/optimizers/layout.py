"""Where every parameter lies in the flat buffers, and the pages in which they are updated.

Parameters of one group lie side by side, and a page never reaches over a group's end: one page has
one learning rate, one weight decay and one codec. How the buffers are cut depends on their size and
the kind of device alone, never on the optimizer's form or its memory: the same cuts give the same
bits, paged or not, also where a kernel treats the rest of a vector register in another way.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lorakit.errors import InputError
from lorakit.optimizers.codecs import Codec, Field
from lorakit.optimizers.codecs.whole import WHOLE_FLOATS
from lorakit.optimizers.groups import Group

# Elements of a page, at least and at most: bounds the temporaries of an update. A GPU needs more to
# do at a time.
PAGE_ELEMENTS = {"cpu": (1 << 12, 1 << 18)}
PAGE_ELEMENTS_ELSEWHERE = (1 << 18, 1 << 20)
MOST_PAGES = 40  # of a small adapter; half as many at least, so that two are a tenth of the state


@dataclass(frozen=True)
class Region:
    """A part of the flat buffers whose moments are kept by one codec."""

    codec: Codec
    dtype: torch.dtype
    start: int
    stop: int

    def fields(self) -> dict[str, Field]:
        """The fields by name."""
        return self.codec.fields(self.dtype)

    def num_bytes(self, start: int, stop: int) -> int:
        """Bytes of the moments of the elements from `start` to `stop`."""
        return sum(
            -(-(stop - start) // field.span) * field.dtype.itemsize
            for field in self.fields().values()
        )

    def part(
        self, fields: Mapping[str, torch.Tensor], start: int, stop: int
    ) -> dict[str, torch.Tensor]:
        """Of every field of the region the part for the elements from `start` to `stop`: views."""
        spans = {name: field.span for name, field in self.fields().items()}
        return {
            name: tensor[
                (start - self.start) // spans[name] : -(-(stop - self.start) // spans[name])
            ]
            for name, tensor in fields.items()
        }


@dataclass(frozen=True)
class Place:
    """Where a parameter lies in the flat buffers."""

    start: int
    shape: torch.Size
    region: int

    @property
    def stop(self) -> int:
        return self.start + self.shape.numel()


@dataclass(frozen=True)
class Page:
    """What is updated at a time: elements `start` to `stop`, whose moments take `num_bytes`."""

    start: int
    stop: int
    region: int
    group: Group
    num_bytes: int


@dataclass(frozen=True)
class Layout:
    """The flat buffers of a set of parameters.

    Attributes:
        dtype: of the buffers: float32, or float64 when a parameter is.
        size: elements, padding included.
        places: {parameter name: where it lies}.
        regions: parts of the buffers by codec.
        pages: the whole, cut.
    """

    dtype: torch.dtype
    size: int
    places: dict[str, Place]
    regions: tuple[Region, ...]
    pages: tuple[Page, ...]

    @property
    def state_bytes(self) -> int:
        """Bytes of the moments of all parameters."""
        return sum(page.num_bytes for page in self.pages)

    @property
    def smallest_budget(self) -> int:
        """Bytes of the two largest pages: one that is updated, and the next on its way."""
        return sum(sorted(page.num_bytes for page in self.pages)[-2:])


def layout_of(
    parameters: Mapping[str, torch.Tensor],
    groups: Mapping[str, Group],
    codec: Codec,
    device_type: str,
) -> Layout:
    """Lay out parameters.

    Args:
        parameters: {name: parameter}; only shapes and dtypes are read.
        groups: {name: its group}; names that are missing do not decay.
        codec: of the moments.
        device_type: "cpu" or "cuda": decides the size of a page.

    Raises:
        InputError: no parameter, or none that the codec keeps.
    """
    if not parameters:
        raise InputError(
            "the model has no trainable parameter; attach an adapter first: lorakit.attach_adapter."
        )
    dtype = functools.reduce(
        torch.promote_types, (p.dtype for p in parameters.values()), torch.float32
    )
    group_of = {name: groups.get(name, Group()) for name in parameters}
    codec_of = {
        name: codec
        if codec.encodes(parameter.shape) and not group_of[name].whole_floats
        else WHOLE_FLOATS
        for name, parameter in parameters.items()
    }
    if codec not in codec_of.values():
        raise InputError(
            "an 8-bit optimizer keeps vectors, embeddings and matrices of less than a block in "
            f"float32, which is all that trains here: {', '.join(sorted(parameters)[:5])}. Use "
            "train.optim: adamw_torch (or paged_adamw_32bit)."
        )
    # Stable: names of one group stay in their order.
    order = sorted(
        parameters,
        key=lambda name: (
            codec_of[name] is not codec,
            not group_of[name].decays,
            group_of[name].lr_factor,
        ),
    )
    builder = _Builder(dtype)
    for name in order:
        builder.add(name, parameters[name].shape, codec_of[name], group_of[name])
    return builder.layout(device_type)


class _Builder:
    """Lays parameters one after the other."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._places: dict[str, Place] = {}
        self._codecs: list[Codec] = []
        self._starts: list[int] = []  # of the regions
        self._runs: list[tuple[int, int, Group]] = []  # (start, region, group)
        self._size = 0

    def add(self, name: str, shape: torch.Size, codec: Codec, group: Group) -> None:
        if not self._codecs or self._codecs[-1] is not codec:
            self._codecs.append(codec)
            self._starts.append(self._size)
        region = len(self._codecs) - 1
        if not self._runs or self._runs[-1][1:] != (region, group):
            self._runs.append((self._size, region, group))
        self._places[name] = Place(self._size, shape, region)
        self._size += -(-shape.numel() // codec.span) * codec.span

    def layout(self, device_type: str) -> Layout:
        ends = [*self._starts[1:], self._size]
        regions = tuple(
            Region(codec, self._dtype, start, stop)
            for codec, start, stop in zip(self._codecs, self._starts, ends, strict=True)
        )
        steps = _steps(regions, page_elements(self._size, device_type))
        stops = [*(run[0] for run in self._runs[1:]), self._size]
        pages = []
        for (begin, region, group), end in zip(self._runs, stops, strict=True):
            for start in range(begin, end, steps[region]):
                stop = min(start + steps[region], end)
                num_bytes = regions[region].num_bytes(start, stop)
                pages.append(Page(start, stop, region, group, num_bytes))
        return Layout(self._dtype, self._size, self._places, regions, tuple(pages))


def _steps(regions: Sequence[Region], elements: int) -> list[int]:
    """Elements of a page of every region: no page takes more bytes than one of the first region."""
    limit = regions[0].num_bytes(0, elements)
    steps = []
    for region in regions:
        step = elements
        while region.num_bytes(0, step) > limit:
            step //= 2
        steps.append(step)
    return steps


def page_elements(size: int, device_type: str) -> int:
    """Elements of a page of buffers of `size` elements, a power of two."""
    smallest, largest = PAGE_ELEMENTS.get(device_type, PAGE_ELEMENTS_ELSEWHERE)
    wanted = 1 << (-(-size // MOST_PAGES) - 1).bit_length()
    return min(max(wanted, smallest), largest)
