"""AdamW with float32 moments in host memory, a page at a time on the device."""

from __future__ import annotations

from lorakit.optimizers.codecs.whole import WHOLE_FLOATS

CODEC = WHOLE_FLOATS
PAGED = True
