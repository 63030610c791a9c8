"""AdamW with 8-bit moments in host memory, a page at a time on the device."""

from __future__ import annotations

from lorakit.optimizers.codecs.block8 import Block8

CODEC = Block8()
PAGED = True
