"""What the device of a recipe can compute with, as far as rules need it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorakit.base.device import compute_device
from lorakit.recipe import BaseSection
from lorakit.train.memory import Room, room_of

# From this compute capability on, GPUs have bfloat16 arithmetic (Ampere).
FIRST_WITH_BFLOAT16 = (8, 0)


@dataclass(frozen=True)
class Hardware:
    """The device that would train.

    Attributes:
        device: `cpu` or `cuda`.
        name: as a person knows it.
        has_bfloat16: whether it computes in bfloat16, not merely stores it; None: not known.
        chosen: whether the recipe names the device, instead of taking what is there.
        room: its memory; None: not known.
    """

    device: str
    name: str
    has_bfloat16: bool | None
    chosen: bool
    room: Room | None = None


def hardware_of(base: BaseSection) -> Hardware:
    """The device a recipe would train on: of this machine, or a GPU of another one, which is not
    known.

    Raises:
        ModelError: the recipe names something that is no device.
    """
    if base.device.startswith("cuda") and not torch.cuda.is_available():
        return Hardware("cuda", "a GPU that is not in this machine", None, chosen=True)
    device = compute_device(base.device)
    chosen = base.device != "auto"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        has = (properties.major, properties.minor) >= FIRST_WITH_BFLOAT16
        return Hardware("cuda", properties.name, has, chosen, room_of(device))
    return Hardware("cpu", "this CPU", _cpu_has_bfloat16(), chosen, room_of(device))


def _cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers by instructions of its own."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
