"""What each of several GPUs would hold.

Data-parallel, as the training loop can (`rank`, `world_size`): every GPU holds the whole model and
trains its share of the examples of each step. What sharding the frozen weights would take instead
is told beside it. No verb starts several processes.
"""

from __future__ import annotations

from typing import Any

from lorakit.plan.memory import Memory
from lorakit.plan.peaks import Peaks, resident_bytes

REPLICATED = ("weights", "adapter", "gradients", "optimizer")
# Layers that are gathered at a time: one that computes, and the next on its way.
GATHERED_LAYERS = 2


def data_parallel(
    memory: Memory, peaks: Peaks, *, count: int, device_type: str, largest_layer: int
) -> dict[str, Any]:
    """Bytes of one of `count` devices, all alike, of whose decoder layers one has `largest_layer`.

    `sharded_weights_peak` is for frozen weights in `count` shards, gathered a layer at a time, with
    all else replicated (as FSDP2 would, arXiv 2304.11277): planned only, lorakit does not train so.
    All of them: nothing is offloaded then, though it may be where every device holds the whole.
    """
    whole = resident_bytes(memory, device_type)
    sharded = -(-memory.weights // count) + min(GATHERED_LAYERS * largest_layer, memory.weights)
    return {
        "type": device_type,
        "count": count,
        "replicated": list(REPLICATED),
        "own": ["activations"],
        "peak": peaks.peak,
        "sharded_weights_peak": peaks.peak - whole + sharded if count > 1 else None,
    }
