"""How the two moments of AdamW are kept: the contract, and what every codec is made of.

A codec turns moments into a few flat tensors, its fields, and back. A field has one item for every
`span` elements, so that a part of the parameters has its part of every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Field:
    """One flat tensor of the state: an item for every `span` elements."""

    dtype: torch.dtype
    span: int = 1


class Codec(Protocol):
    """What a file of this folder defines.

    Attributes:
        span: every parameter starts at a multiple of it, padded with zeros, so that parameters
            share no item of any field.
    """

    span: int

    def encodes(self, shape: torch.Size) -> bool:
        """Whether it keeps the moments of a parameter of this shape; else they are whole floats."""

    def fields(self, dtype: torch.dtype) -> dict[str, Field]:
        """The fields by name, for parameters whose master copy has `dtype`."""

    def decode(
        self, state: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both moments, `dtype` (N,); not to be written to. Zeros give zeros."""

    def encode(self, mean: torch.Tensor, square: torch.Tensor) -> dict[str, torch.Tensor]:
        """The fields of these moments."""
