"""Which adapter each token of a forward pass belongs to.

S sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lorakit.errors import AdapterError

BASE = -1


@dataclass(frozen=True)
class Grouping:
    """The tokens of a pass, sorted by adapter.

    Attributes:
        indices: of the adapters that have tokens, ascending; -1 is the base.
        counts: how many tokens each has.
        order: int64 (T,), the tokens as sorted; None: they are sorted already.
        inverse: int64 (T,), their places in that order.
    """

    indices: tuple[int, ...]
    counts: tuple[int, ...]
    order: torch.Tensor | None
    inverse: torch.Tensor | None

    @classmethod
    def of(cls, rows: torch.Tensor, device: torch.device) -> Grouping:
        """Of the adapter's index of each token, int64 (T,) on the host."""
        indices, counts = rows.unique(return_counts=True)
        found = tuple(indices.tolist()), tuple(counts.tolist())
        if bool((rows[1:] >= rows[:-1]).all()):
            return cls(*found, None, None)
        order = rows.argsort(stable=True)
        return cls(*found, order.to(device), order.argsort().to(device))

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(T, ...) -> the rows of each adapter."""
        return (x if self.order is None else x[self.order]).split(self.counts)

    def join(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """Undo `split`."""
        y = pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
        return y if self.inverse is None else y[self.inverse]


class Mixture:
    """Tells the mixed modules of a model which token has which adapter.

    Args:
        names: of the adapters; their indices are what modules go by.
        device: of the model.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = tuple(names)
        self._device = device
        self._index: dict[str | None, int] = {None: BASE} | {n: i for i, n in enumerate(names)}
        self._sequences = torch.empty(0, dtype=torch.int64)
        self._lengths = torch.empty(0, dtype=torch.int64)
        self._tokens: Grouping | None = None
        self._num_tokens = 0

    def choose(self, names: Sequence[str | None], lengths: Sequence[int] | None = None) -> None:
        """Before a forward pass: the adapter of each of its sequences.

        Args:
            names: for each sequence, None for the base.
            lengths: tokens of each where they stand in one row; None: one each.
        """
        self._sequences = torch.tensor([self._index[name] for name in names], dtype=torch.int64)
        self._lengths = torch.tensor(lengths or [1] * len(names))
        self._tokens = None

    def begin_pass(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A hook before the backbone: from here on modules see the tokens of this pass."""
        given = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        inputs = next(one for one in given if one is not None)
        num_rows, num_tokens = inputs.shape[:2]
        num_names, in_one_row = len(self._sequences), int(self._lengths.sum())
        if num_rows == num_names:
            rows = self._sequences.repeat_interleave(num_tokens)
        elif num_rows == 1 and num_tokens == in_one_row:
            rows = self._sequences.repeat_interleave(self._lengths)
        else:
            raise AdapterError(
                f"{num_names} adapters are named for a batch of {num_rows} rows of {num_tokens} "
                "tokens; possible: one name for each row, or for each token of a single row. Give "
                "as many names."
            )
        self._tokens, self._num_tokens = Grouping.of(rows, self._device), len(rows)

    def grouping(self, num_rows: int, module: str, *, is_head: bool) -> Grouping:
        """The rows that a module sees, by adapter.

        Args:
            num_rows: tokens of the pass; for the head, or of each sequence as many.
            module: its name.
        """
        if self._tokens is not None and num_rows == self._num_tokens:
            return self._tokens
        num_sequences = len(self._sequences)
        if is_head and num_rows % num_sequences == 0:
            rows = self._sequences.repeat_interleave(num_rows // num_sequences)
            return Grouping.of(rows, self._device)
        raise AdapterError(
            f"{module!r} sees {num_rows} rows of a pass with {self._num_tokens} tokens, so they "
            "cannot be told apart by adapter; possible: modules that see every token. Leave it out "
            "of these adapters (adapter.exclude_modules), or run their rows alone."
        )
