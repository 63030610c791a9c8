"""The memory of a plan, in tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from lorakit.cli.output import counted, human_bytes

if TYPE_CHECKING:
    from lorakit.plan.plan import Plan

METHODS = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}


def memory_tables(plan: Plan) -> Iterator[Table]:
    """What there is in a training step, the most in each phase, and three methods side by side."""
    memory, peaks = plan.memory, plan.peaks
    parts = {
        "weights": memory.weights,
        "  of them scales of codes": memory.quantization_constants,
        "adapter": memory.adapter,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "dense copies": peaks.dense_copies,
        "libraries": peaks.libraries,
        "rows": peaks.rows,
        "activations": peaks.activations,
        "working memory": peaks.working,
        "  an unpacked weight": memory.largest_weight,
        "  the loss": peaks.loss,
        "holes of the heap": peaks.holes,
    }
    table = _table("memory of a step")
    for name, count in parts.items():
        if count:
            table.add_row(name, f"{count:,}", human_bytes(count))
    yield table
    if peaks.evaluation is not None:
        measured = peaks.evaluation
        parts = {
            "losses": measured.losses,
            "options": measured.choices,
            "answers": measured.answers,
            "  of them dense weights": measured.dense_layers,
            "  keys and values": measured.kv_cache,
        }
        table = _table("the evaluation, beside weights and adapter")
        for name, count in parts.items():
            if count:
                table.add_row(name, f"{count:,}", human_bytes(count))
        yield table
    table = _table("the most in each phase")
    for name, count in peaks.phases.items():
        table.add_row(name.replace("_", " "), f"{count:,}", human_bytes(count))
    table.add_row("peak", f"{peaks.peak:,}", human_bytes(peaks.peak))
    yield table
    if not plan.methods:
        return
    # Methods across: parts across would be wider than a terminal of 80 columns.
    table = Table("in 16 bit", *(METHODS[name] for name in plan.methods), box=None, pad_edge=False)
    for part in next(iter(plan.methods.values())):
        table.add_row(part, *(human_bytes(counts[part]) for counts in plan.methods.values()))
    for column in table.columns[1:]:
        column.justify = "right"
    yield table


def device_lines(plan: Plan) -> Iterator[str]:
    """The micro-batch that the memory is of, and what one GPU of several would hold."""
    worst = plan.peaks.micro_batch()
    yield (
        f"worst micro-batch: {counted(worst['tokens'], 'token')} in "
        f"{counted(worst['examples'], 'example')}, the longest of {worst['longest']:,}"
    )
    devices = plan.devices
    if devices["count"] > 1:
        copied = ", ".join(devices["replicated"])
        sharded = human_bytes(devices["sharded_weights_peak"])
        yield (
            f"each of {devices['count']} GPUs would hold a copy of {copied} and the activations of "
            f"its own examples: {human_bytes(devices['peak'])}. With the frozen weights in shards "
            f"it would be {sharded}. Both are planned only: `lorakit train` uses one GPU"
        )


def _table(title: str) -> Table:
    table = Table(title, "bytes", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    return table
