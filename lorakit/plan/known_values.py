"""The few values that are known without data: lengths, positions, what is padding.

Code of models asks for some of them: whether rows are packed, whether anything is padding. They
follow from a micro-batch's lengths and from constants, whatever its tokens are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

# Numbers of a tensor whose values are followed: those of tokens, and not of their pairs.
MOST_NUMBERS = 1 << 20
_ASKING = torch.ops.aten._local_scalar_dense.default  # what `.item()` and `bool()` call
_WITHOUT_VALUES = ("empty", "new_empty")


class KnownValues:
    """Of tensors on the meta device, whole numbers and truths that follow from constants and from
    what was copied there.

    Whoever intercepts ops asks `answer` before each and calls `follow` after it; the CPU tensors
    that hold the values are made by ops that are not to be intercepted.
    """

    def __init__(self) -> None:
        self._values = WeakIdKeyDictionary()  # {tensor on the meta device: the same on the CPU}

    def know(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """That a tensor has the values of one on the CPU."""
        self._values[tensor] = value

    def answer(self, func: Any, args: Sequence[Any]) -> bool | int | None:
        """What an op that asks for a value gets; None: it asks for none, or that is not known."""
        if func is not _ASKING or args[0] not in self._values:
            return None
        found: bool | int = self._values[args[0]].item()
        return found

    def follow(self, func: Any, args: Sequence[Any], kwargs: Any, result: torch.Tensor) -> None:
        """Do the same with the values, if all of them are known."""
        if not _may_be_known(func, result):
            return
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if all(not one.is_meta or one in self._values for one in given):
            args, kwargs = tree_map(self._value, (args, kwargs))
            self._values[result] = func(*args, **kwargs)
        elif func._schema.is_mutable and result in self._values:
            self._values.clear()  # views of it may be known as well

    def _value(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return self._values[leaf] if leaf.is_meta else leaf
        if isinstance(leaf, torch.device):
            return torch.device("cpu")
        return leaf


def _may_be_known(func: Any, result: torch.Tensor) -> bool:
    return (
        result.is_meta
        and not (result.is_floating_point() or result.is_complex())
        and result.numel() <= MOST_NUMBERS
        and torch.Tag.nondeterministic_seeded not in func.tags
        and not func._schema.name.removeprefix("aten::").startswith(_WITHOUT_VALUES)
    )
