"""Inits of the low-rank factors, found by listing this folder: each file serves its `NAMES`."""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache
from typing import cast

from lorakit.adapters.contract import Init
from lorakit.errors import AdapterError

NUMBER = "([1-9][0-9]{0,3})"  # what the N of a name stands for


@cache
def _by_name() -> dict[bool | str, Init]:
    found: dict[bool | str, Init] = {}
    for module in pkgutil.iter_modules(__path__):
        init = cast(Init, importlib.import_module(f"{__name__}.{module.name}"))
        found.update(dict.fromkeys(init.NAMES, init))
    return found


def names() -> list[bool | str]:
    """The values of `init_lora_weights` that this folder serves; N stands for a number."""
    return sorted(_by_name(), key=str)


def init(name: bool | str) -> Init:
    """The init called `name`.

    Raises:
        AdapterError: no file serves that name.
    """
    for known, found in _by_name().items():
        if known is name or (isinstance(name, str) and _match(known, name) is not None):
            return found
    listed = ", ".join(
        str(known).lower() if known in (True, False) else str(known) for known in names()
    )
    raise AdapterError(
        f"init_lora_weights {name!r} is not built; possible are {listed}. Fix "
        "adapter.init_lora_weights."
    )


def number_in(name: bool | str) -> int:
    """The number that stands where the name of the init that serves `name` has its N."""
    numbers = (_match(known, str(name)) for known in _by_name())
    return next(int(found[1]) for found in numbers if found is not None and found.groups())


def _match(known: bool | str, name: str) -> re.Match[str] | None:
    if isinstance(known, bool):
        return None
    return re.fullmatch(re.escape(known).replace("N", NUMBER), name.lower())
