"""AdamW with 8-bit moments beside the parameters."""

from __future__ import annotations

from lorakit.optimizers.codecs.block8 import Block8

CODEC = Block8()
PAGED = False
