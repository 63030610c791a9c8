"""A half-precision dtype that this hardware does not compute in."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "bfloat16-without-hardware"
SEVERITIES = ("warning", "note")
TITLE = "A half-precision dtype that this hardware does not compute in"
REASON = (
    "GPUs before Ampere (compute capability 8.0) and most CPUs emulate bfloat16, several "
    "times slower than their own dtype. float16 on a CPU is slower still, and overflows at "
    "65,504, where models trained in bfloat16 exceed it. A note where the recipe leaves the "
    "device open: it may be meant for another machine."
)
SOURCE = (
    "NVIDIA's CUDA programming guide, table of arithmetic throughput; LLaMA-Factory#7263, "
    "#8088: loss 0 in float16"
)
EXAMPLE = "base: {device: cpu, dtype: bfloat16}"
MEND = "Leave base.dtype out (auto: bfloat16 on GPUs that have it, else float32)."


def find(facts: Facts) -> Iterator[Finding]:
    dtype, hardware = facts.recipe.base.dtype, facts.hardware
    emulated = dtype == "bfloat16" and hardware.has_bfloat16 is False
    if not emulated and not (dtype == "float16" and hardware.device == "cpu"):
        return
    sure = hardware.chosen or hardware.device == "cuda"
    message = (
        f"dtype {dtype} on {hardware.name}, which does not compute in it: slower and less exact "
        "than "
        "float32; leave base.dtype out, and lorakit takes what the hardware has"
    )
    severity = "warning" if sure else "note"
    yield Finding(ID, severity, message, "base.dtype")  # type: ignore[arg-type]
