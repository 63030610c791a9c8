"""Names of a model's modules, as messages list them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import nn

from lorakit.base.frozen_linear import is_linear

MAX_NAMES_IN_MESSAGE = 20


def leaf(name: str) -> str:
    """The last part of a module's name."""
    return name.rpartition(".")[2]


def linear_names(modules: Mapping[str, nn.Module]) -> str:
    """What linear layers are called, and how many of them."""
    counted = Counter(leaf(name) for name, module in modules.items() if is_linear(module))
    names = [f"{name} ({count})" for name, count in counted.items()][:MAX_NAMES_IN_MESSAGE]
    return ", ".join(names) or "no linear layer"


def nearest(given: Iterable[str], modules: Mapping[str, nn.Module]) -> str:
    """A sentence with the names that are most like those given; empty without such."""
    known = {leaf(name) for name in modules} | set(modules)
    near = [match for text in given for match in difflib.get_close_matches(text, known, n=1)]
    return f" Did you mean {', '.join(map(repr, near))}?" if near else ""
