"""Which decoder layers stay on the device and which live in host memory or on disk.

Decided from exact bytes per layer on an empty model, whole layers at a time, first layers first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lorakit.base.device_memory import free_bytes
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.offload import DEVICE, DISK, HOST
from lorakit.base.packing import packable
from lorakit.errors import ModelError

SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)
LAYER = re.compile(r"^(.*?\.\d+)\.")
# What the frozen weights may take of the memory that is free: the rest is for adapters,
# optimizer, activations and the allocator.
SHARE_OF_FREE_MEMORY = 0.8
OFFLOAD = ("auto", "none", "cpu", "disk")


@dataclass(frozen=True)
class Placed:
    """One row of the placement table.

    Attributes:
        layer: module path of a decoder layer; "" for everything outside of them.
        num_bytes: of its weights as stored.
        where: "device", "cpu" or "disk".
    """

    layer: str
    num_bytes: int
    where: str


def place(
    empty: PreTrainedModel,
    device: torch.device,
    *,
    offload: str = "auto",
    max_device_memory: int | str | None = None,
) -> tuple[Placed, ...]:
    """Decide where each decoder layer's linear weights live.

    Args:
        empty: the model on the meta device, with the storages it will have.
        device, offload, max_device_memory: see `place_layers`.

    Raises:
        ModelError: see `place_layers`.
    """
    return place_layers(
        bytes_by_layer(empty), device, offload=offload, max_device_memory=max_device_memory
    )


def place_layers(
    layers: Mapping[str, int],
    device: torch.device,
    *,
    offload: str = "auto",
    max_device_memory: int | str | None = None,
) -> tuple[Placed, ...]:
    """Decide it from the bytes of the layers.

    Args:
        layers: see `bytes_by_layer`.
        device: that computes.
        offload: "none", "cpu" or "disk": where layers go that do not fit; "auto": host memory
            beside a GPU, disk beside a CPU.
        max_device_memory: bytes (or a text such as "6GB") that frozen weights may take on the
            device; None: 80 % of what is free there.

    Raises:
        ModelError: an unreadable size, another `offload`, or what cannot be offloaded exceeds it.
    """
    if offload not in OFFLOAD:
        raise ModelError(
            f"offload {offload!r} is not possible; possible: {', '.join(OFFLOAD)}. Fix "
            "base.offload."
        )
    total = sum(layers.values())
    limit = parse_bytes(max_device_memory)
    if limit is None:
        limit = int(free_bytes(device) * SHARE_OF_FREE_MEMORY)
    if offload == "none" or total <= limit:
        return tuple(Placed(layer, size, DEVICE) for layer, size in layers.items())
    left = limit - layers[""]
    if left < 0:
        raise ModelError(
            f"embeddings, norms and output head take {layers['']} bytes, but frozen weights may "
            f"take {limit} on the device; possible: offloading decoder layers. Raise "
            "base.max_device_memory."
        )
    target = offload if offload != "auto" else (DISK if device.type == "cpu" else HOST)
    placed = []
    for layer, size in layers.items():
        stays = layer == "" or size <= left
        if layer != "":
            left = left - size if stays else 0
        placed.append(Placed(layer, size, DEVICE if stays else target))
    return tuple(placed)


def parse_bytes(size: int | str | None, *, option: str = "base.max_device_memory") -> int | None:
    """Bytes of a size such as 6GB (1e9 each), 6GiB (2**30 each) or a plain number.

    Args:
        size: None stays None.
        option: what to name in an error.

    Raises:
        ModelError: not a size.
    """
    if size is None or isinstance(size, int):
        return size
    match = SIZE.fullmatch(size)
    if match is None:
        raise ModelError(
            f"{size!r} is not a size; possible: 6GB, 512MiB, 6000000000. Fix {option}."
        )
    number, prefix, binary = match.groups()
    step = 1024 if binary else 1000
    return int(float(number) * step ** " KMGT".index(prefix.upper() or " "))


def layer_of(name: str) -> str:
    """The decoder layer that a module or parameter belongs to; "" when to none."""
    match = LAYER.match(name + ".")
    return match.group(1) if match else ""


def bytes_by_layer(model: PreTrainedModel) -> dict[str, int]:
    """{module path of a decoder layer: bytes of its weights as stored}; "" has everything outside
    of them and what cannot be offloaded."""
    layers: dict[str, int] = defaultdict(int, {"": 0})
    counted: set[int] = set()
    offloadable: dict[str, str] = {}
    frozen = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, FrozenLinear | FrozenExperts)
    }
    for path, parameter in packable(model).items():
        stored = (
            [f"{path}.stored.{part}" for part in frozen[path].stored.tensors()]
            if path in frozen
            else [parameter]
        )
        offloadable |= dict.fromkeys(stored, layer_of(path))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if id(tensor) not in counted:
            counted.add(id(tensor))
            layers[offloadable.get(name, "")] += tensor.numel() * tensor.element_size()
    return dict(layers)
