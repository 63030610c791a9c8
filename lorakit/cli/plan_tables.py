"""The memory of a plan, in tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from lorakit.cli.output import counted
from lorakit.sizes import size

if TYPE_CHECKING:
    from lorakit.plan.result import Plan

METHODS = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}


def stage_lines(plan: Plan) -> Iterator[str]:
    """What is generated, and the stage of SFT before, where there are such."""
    if plan.peaks.rollouts is not None:
        told = plan.peaks.rollouts.to_json()
        if told["completions"] is not None:
            yield (
                f"{'rollouts':<15} {told['completions']:,} completions, at most "
                f"{told['generated_tokens_at_most']:,} tokens, {told['at_a_time']} at a time"
            )
    if plan.answers is not None:
        told = plan.answers.to_json()
        sampled = f" and {told['sampled']:,} sampled ones" if told["sampled"] else ""
        yield (
            f"{'answers':<15} {told['greedy']:,} greedy{sampled}, base and tuned, at most "
            f"{told['generated_tokens_at_most']:,} tokens"
        )
    before = plan.warm_start
    if before is not None and before.steps is not None:
        tokens = "" if before.tokens is None else f", {before.tokens:,} tokens"
        yield f"{'warm start':<15} {before.steps:,} steps{tokens}"


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
            table.add_row(name, f"{count:,}", size(count))
    yield table
    if peaks.rollouts is not None and peaks.rollouts.bytes is not None:
        rolled = peaks.rollouts.bytes
        table = _table("a generation, beside what always is there")
        for name, count in (
            ("completions", rolled.answers),
            ("  of them dense weights", rolled.dense_layers),
            ("  keys and values", rolled.kv_cache),
            ("holes of the heap", rolled.holes),
        ):
            if count:
                table.add_row(name, f"{count:,}", size(count))
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
                table.add_row(name, f"{count:,}", size(count))
        yield table
    table = _table("the most in each phase")
    for name, count in peaks.phases.items():
        table.add_row(name.replace("_", " "), f"{count:,}", size(count))
    table.add_row("peak", f"{peaks.peak:,}", size(peaks.peak))
    yield table
    if not plan.methods:
        return
    # Methods across: parts across would be wider than a terminal of 80 columns.
    table = Table("in 16 bit", *(METHODS[name] for name in plan.methods), box=None, pad_edge=False)
    for part in next(iter(plan.methods.values())):
        table.add_row(part, *(size(counts[part]) for counts in plan.methods.values()))
    for column in table.columns[1:]:
        column.justify = "right"
    yield table


def device_lines(plan: Plan) -> Iterator[str]:
    """The micro-batch that the memory is of, and what one GPU of several would hold."""
    worst, batch_of = plan.peaks.micro_batch(), plan.setup["batch_of"]
    yield (
        f"worst micro-batch: {counted(worst['tokens'], 'token')} in "
        f"{counted(worst['examples'], batch_of)}, the longest of {worst['longest']:,}"
    )
    devices = plan.devices
    if devices["count"] > 1:
        copied = ", ".join(devices["replicated"])
        sharded = size(devices["sharded_weights_peak"])
        yield (
            f"each of {devices['count']} GPUs would hold a copy of {copied} and the activations of "
            f"its own {batch_of}s: {size(devices['peak'])}. With the frozen weights in shards "
            f"it would be {sharded}. Both are planned only: `lorakit train` uses one GPU"
        )


def _table(title: str) -> Table:
    table = Table(title, "bytes", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    return table
