"""Prompts said otherwise, by a rule and without a model; found by listing this folder.

`<name>.py` defines `NAME` (the file's name), `SUMMARY` (what the prompts are then, in words) and
`vary(pieces, generator, kept) -> pieces`, called with the stretches of a prompt that may change and
with those between them that stay as they are (numbers, code, quotations), see `data.free_text`.
What a prompt becomes is a function of these and of this room's source alone: no other file is read.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Protocol, cast

import numpy as np

from lorakit.errors import RecipeError

# `in_domain+typos` is the set in_domain with typos. Of no other set are there variants: tasks of
# other programs may have a sign in their names.
VARIED = "in_domain"
JOINT = "+"


class Variant(Protocol):
    """What a file of this folder defines."""

    NAME: str
    SUMMARY: str

    def vary(self, pieces: list[str], generator: np.random.Generator, kept: list[str]) -> list[str]:
        """Say a prompt otherwise.

        Args:
            pieces: the free stretches of a prompt, in order.
            generator: of everything that is drawn; another for every prompt.
            kept: what stands between the pieces, one less than them.

        Returns:
            As many pieces.
        """


def names() -> list[str]:
    """The variants in this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@cache
def variant(name: str) -> Variant:
    """The variant called `name`.

    Raises:
        RecipeError: there is no file of that name.
    """
    if name not in names():
        raise RecipeError(
            f"variant {name!r} does not exist; variants are {', '.join(names())}. Choose one of "
            "them."
        )
    return cast(Variant, importlib.import_module(f"{__name__}.{name}"))


def variant_name(source: str, name: str) -> str:
    """The name of a set whose prompts are said otherwise: `in_domain+typos`."""
    return f"{source}{JOINT}{name}"


def source_and_variant(set_name: str) -> tuple[str, str] | None:
    """(`in_domain`, `typos`) of `in_domain+typos`; None for a set as it was given."""
    source, joint, name = set_name.partition(JOINT)
    return (source, name) if joint and source == VARIED else None
