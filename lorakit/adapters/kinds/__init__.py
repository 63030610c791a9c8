"""Adapter kinds, found by listing this folder.

`<name>.py` holds one `Kind` whose `NAME` is the file's name.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from lorakit.adapters.contract import Kind
from lorakit.errors import AdapterError


def names() -> list[str]:
    """The kinds in this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@cache
def kind(name: str) -> type[Kind]:
    """The kind called `name`.

    Raises:
        AdapterError: there is no file of that name.
    """
    if name not in names():
        raise AdapterError(
            f"adapter kind {name!r} does not exist; kinds are {', '.join(names())}. Fix "
            "adapter.kind."
        )
    module = importlib.import_module(f"{__name__}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Kind) and vars(value).get("NAME") == name
    )
