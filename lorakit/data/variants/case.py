"""Small letters or capitals throughout, as people type in haste or with the caps lock on; a draw
says which, and a prompt that is so already gets the other."""

from __future__ import annotations

import numpy as np

NAME = "case"
SUMMARY = "in small letters or capitals"


def vary(pieces: list[str], generator: np.random.Generator, kept: list[str]) -> list[str]:
    """See `lorakit.data.variants.Variant`."""
    lower, upper = [p.lower() for p in pieces], [p.upper() for p in pieces]
    first, second = (lower, upper) if generator.random() < 0.5 else (upper, lower)
    return second if first == pieces else first
