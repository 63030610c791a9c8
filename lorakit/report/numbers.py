"""The run in numbers: what was adapted, how long it took, and what the plan had said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorakit.recipe import Recipe
from lorakit.recipe.quantizations import BLOCKWISE
from lorakit.report.files import RunFiles
from lorakit.report.training_files import ChoiceFacts, LoggedStep, Parameters, PlanFacts
from lorakit.report.words import amount, count, counted, duration, share, size
from lorakit.train.clock import PeakMemory

TOLD_LINES = 5  # of the metrics, at the beginning and at the end
KINDS = {"lora": "LoRA", "dora": "DoRA"}


@dataclass(frozen=True)
class Fact:
    """A name, its value, and what else there is to say."""

    name: str
    value: str
    detail: str = ""


def facts_of(run: RunFiles) -> list[Fact]:
    """Every number that the files of the run know."""
    last = run.metrics[-1] if run.metrics else None
    facts: list[Fact] = []
    if run.recipe is not None:
        facts += of_recipe(run.recipe)
    if run.plan is not None:
        facts.append(of_trained(run.plan.parameters))
    if last is not None:
        facts += _of_training(last, run.plan)
        facts += _of_rewards(run.metrics)
        facts.append(_memory(last, run.plan, run.choices))
    elif run.plan is not None:
        facts += [Fact("Steps planned", count(run.plan.steps))]
    if run.choices is not None:
        facts += _of_machine(run.choices)
    return facts


def of_recipe(recipe: Recipe) -> Iterator[Fact]:
    """Which base, how it is stored, and which adapter."""
    base, adapter = recipe.base, recipe.adapter
    # A folder's path is in the recipe below; its name says which model it is.
    yield Fact("Base model", base.model.rstrip("/").rpartition("/")[2] or base.model)
    if base.quantization not in BLOCKWISE:
        yield Fact("Quantization", base.quantization)
    else:
        doubled = "double-quantized scales" if base.double_quantization else "plain scales"
        yield Fact("Quantization", base.quantization, f"blocks of {base.block_size}, {doubled}")
    targets = adapter.target_modules
    on = targets if isinstance(targets, str) else ", ".join(targets)
    yield Fact("Adapter", f"{KINDS.get(adapter.kind_name, adapter.kind_name)}, r {adapter.r}", on)


def of_trained(parameters: Parameters) -> Fact:
    """How much of the model trains."""
    trainable, total = parameters.trainable, parameters.total
    return Fact(
        "Trained parameters",
        count(trainable),
        f"{share(trainable, total)} of {count(total)}",
    )


def _of_training(last: LoggedStep, plan: PlanFacts | None) -> Iterator[Fact]:
    planned = "" if plan is None or plan.steps is None else f"of {count(plan.steps)} planned, "
    yield Fact("Steps", count(last.step), f"{planned}{last.epoch:.2f} epochs")
    yield Fact(
        "Tokens", count(last.tokens), f"{share(last.trained_tokens, last.tokens)} of them trained"
    )
    left_out = "saving left out" if last.spent else "saving and validation left out"
    yield Fact("Training time", duration(last.seconds), left_out)
    if last.seconds > 0:
        yield Fact("Speed", f"{last.tokens / last.seconds:,.0f} tokens/s", "mean over the run")


def _of_rewards(metrics: Sequence[LoggedStep]) -> Iterator[Fact]:
    """What a policy gradient came to, and where its time went."""
    rewards = [line.reward for line in metrics if line.reward is not None]
    if not rewards:
        return
    told = min(TOLD_LINES, len(rewards))
    first, now = (sum(part) / told for part in (rewards[:told], rewards[-told:]))
    lines = "the first line" if told == 1 else f"the first {told} lines"
    yield Fact(
        "Reward", f"{amount(first)} \u2192 {amount(now)}", f"mean of {lines} and of the last"
    )
    parts = dict.fromkeys(name for line in metrics for name in line.spent)
    spent = {name: sum(line.spent.get(name, 0.0) for line in metrics) for name in parts}
    whole = sum(spent.values())
    if whole > 0:
        order = sorted(spent, key=lambda name: -spent[name])
        most, *rest = (f"{name} {share(spent[name], whole)}" for name in order)
        yield Fact("Time went into", most, ", ".join(rest))


def _memory(last: LoggedStep, plan: PlanFacts | None, choices: ChoiceFacts | None) -> Fact:
    peak = None if plan is None else plan.memory_bytes.get("peak")
    measured = last.peak_bytes if plan is None else plan.measured_peak or last.peak_bytes
    if peak:
        on_cpu = choices is not None and choices.device.startswith("cpu")
        detail = f"plan: {size(peak)}; {PeakMemory(peak, measured, on_cpu).off_by()}"
    elif plan is not None:
        parts = [bytes_ for name, bytes_ in plan.memory_bytes.items() if name != "loading_peak"]
        known = sum(bytes_ for bytes_ in parts if bytes_ is not None)
        detail = f"plan: {size(known)} without activations, which it did not predict"
    else:
        detail = ""
    return Fact("Peak memory", size(measured), detail)


def _of_machine(choices: ChoiceFacts) -> Iterator[Fact]:
    threads = "" if choices.num_threads is None else f", {counted(choices.num_threads, 'thread')}"
    kernels = "" if choices.kernels is None else f", {choices.kernels} kernels"
    dtype = choices.dtype.removeprefix("torch.")
    yield Fact("Computed on", choices.device, f"{dtype}{threads}{kernels}")
    laid_out = "packed" if choices.packed else "padded"
    level = choices.recompute
    if level == "auto" and choices.activation_bytes is not None:
        level = f"beyond {size(choices.activation_bytes)}"
    yield Fact(
        "Micro-batches",
        f"up to {count(choices.micro_batch_tokens)} tokens",
        f"{laid_out}{'' if level is None else f', gradient checkpointing: {level}'}",
    )
