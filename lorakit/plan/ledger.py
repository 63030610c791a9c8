"""Counts the bytes of tensors while they live: what is allocated, what is let go, and the most."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lorakit.plan.known_values import KnownValues

# Without data these do nothing, for which PyTorch takes a millisecond each: by decompositions.
_IN_PLACE = frozenset({torch.ops.aten.addmm_.default})


class Ledger(TorchDispatchMode):
    """Inside, every storage that comes into being is entered, and struck out when it goes.

    Temporaries inside of an op's own kernel are not seen.

    Args:
        granularity: bytes to which the allocator rounds each request.
        known: tensors that were there before, and are not counted.
        values: of them, those whose values are known without data.

    Attributes:
        live: bytes of the storages that are there now.
        peak: the most there were since `begin_phase`.
        alive: {number of a storage that is there now: its bytes}; numbers rise.
        events: (number of a storage, its bytes), 0 bytes when it goes; in their order.
    """

    def __init__(
        self,
        granularity: int,
        known: Iterable[torch.Tensor] = (),
        values: KnownValues | None = None,
    ) -> None:
        super().__init__()
        self._values = KnownValues() if values is None else values
        self.live = 0
        self.peak = 0
        self.alive: dict[int, int] = {}
        self.events: list[tuple[int, int]] = []
        self._granularity = granularity
        self._storages: dict[int, tuple[int, Any]] = {}  # {its address: its number, a reference}
        self._known = [tensor.untyped_storage() for tensor in known]  # kept, so that ids stay
        self._known_ids = {storage._cdata for storage in self._known}

    def begin_phase(self) -> None:
        """Let the peak start anew at what is there now."""
        self.peak = self.live

    def number_of(self, tensor: torch.Tensor) -> int | None:
        """That its storage has among `events`; None: it is not counted."""
        found = self._storages.get(tensor.untyped_storage()._cdata)
        return None if found is None else found[0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in _IN_PLACE and args[0].is_meta:
            return args[0]
        kwargs = kwargs or {}
        answer = self._values.answer(func, args)
        if answer is not None:
            return answer
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            self._enter(result)
            self._values.follow(func, args, kwargs, result)
        else:
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self._enter(leaf)
        return result

    def _enter(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages or key in self._known_ids or not storage.nbytes():
            return
        size = -(-storage.nbytes() // self._granularity) * self._granularity
        number = len(self.events)

        def strike(_: Any) -> None:
            del self._storages[key]
            self.live -= size
            del self.alive[number]
            self.events.append((number, 0))

        self._storages[key] = number, weakref.ref(storage, strike)
        self.live += size
        self.alive[number] = size
        self.peak = max(self.peak, self.live)
        self.events.append((number, size))
