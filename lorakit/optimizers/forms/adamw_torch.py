"""AdamW with float32 moments beside the parameters: the default."""

from __future__ import annotations

from lorakit.optimizers.codecs.whole import WHOLE_FLOATS

CODEC = WHOLE_FLOATS
PAGED = False
