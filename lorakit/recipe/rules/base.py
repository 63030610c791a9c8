"""What `base` may not say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit.recipe.builtin_names import is_builtin_model
from lorakit.recipe.quantizations import BLOCKWISE
from lorakit.recipe.rules.fault import Fault, no_effect, unknown

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe

DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


def base_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the base section."""
    base = recipe.base
    if not DEVICE.fullmatch(base.device):
        yield unknown(("base", "device"), base.device, ("auto", "cpu", "cuda", "cuda:0"))
    if not base.model.strip():
        yield Fault(("base", "model"), "is empty; give a folder, a hub id or `builtin`")
    if base.quantization not in BLOCKWISE:
        for name in ("double_quantization", "block_size"):
            if name in base.model_fields_set:
                yield no_effect(
                    ("base", name),
                    f"base.quantization is {base.quantization}",
                    f"set it to {' or '.join(BLOCKWISE)}",
                )
    if base.offload == "none" and base.max_device_memory is not None:
        yield no_effect(
            ("base", "max_device_memory"),
            "base.offload is none",
            "set offload to auto, cpu or disk",
        )
    for name in ("add_tokens", "add_special_tokens"):
        if getattr(base, name) == []:
            yield no_effect(("base", name), "it names no token", "name some")
    if base.revision is not None:
        if is_builtin_model(base.model):
            yield no_effect(("base", "revision"), "base.model is builtin", "name a hub id")
        elif Path(base.model).is_dir():
            yield no_effect(("base", "revision"), "base.model is a folder", "name a hub id")
