"""How a base may be stored: what is known of it by name."""

from __future__ import annotations

BLOCKWISE = ("nf4", "fp4")  # the quantizations that have blocks, and scales of them
# Bits per weight of what `base.quantization` stores.
BITS = {"nf4": 4, "fp4": 4, "int8": 8}
