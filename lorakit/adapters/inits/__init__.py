"""Inits of the low-rank factors, found by listing this folder: each file serves its `NAMES`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import cast

from lorakit.adapters.contract import Init
from lorakit.errors import AdapterError


@cache
def _by_name() -> dict[bool | str, Init]:
    found: dict[bool | str, Init] = {}
    for module in pkgutil.iter_modules(__path__):
        init = cast(Init, importlib.import_module(f"{__name__}.{module.name}"))
        found.update(dict.fromkeys(init.NAMES, init))
    return found


def names() -> list[bool | str]:
    """The values of `init_lora_weights` that this folder serves."""
    return sorted(_by_name(), key=str)


def init(name: bool | str) -> Init:
    """The init called `name`.

    Raises:
        AdapterError: no file serves that name.
    """
    key = name.lower() if isinstance(name, str) else name
    if key not in _by_name():
        known = ", ".join(str(known).lower() for known in names())
        raise AdapterError(
            f"init_lora_weights {name!r} is not built; possible are {known}. Fix "
            "adapter.init_lora_weights."
        )
    return _by_name()[key]
