"""Optimizers by their name in `train.optim`, found by listing this folder.

`<name>.py` defines `CODEC`, how the moments are kept, and `PAGED`, whether they live in the host's
memory and visit the device page by page.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Protocol, cast

from lorakit.errors import InputError
from lorakit.optimizers.codecs import Codec


class Form(Protocol):
    """What a file of this folder defines."""

    CODEC: Codec
    PAGED: bool


def names() -> list[str]:
    """The optimizers in this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@cache
def form(name: str) -> Form:
    """The optimizer called `name`.

    Raises:
        InputError: there is no file of that name.
    """
    if name not in names():
        raise InputError(
            f"optimizer {name!r} does not exist; possible: {', '.join(names())}. Fix train.optim."
        )
    return cast(Form, importlib.import_module(f"{__name__}.{name}"))
