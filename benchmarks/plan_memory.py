"""Predicted against measured peak memory of training on a CPU: does the plan tell the truth?

    python benchmarks/plan_memory.py
    python benchmarks/plan_memory.py --only llama-nf4

Families, dense and NF4, LoRA and DoRA, without and with full recompute, two shapes of batches. Each
configuration is loaded and trained for two steps in a process of its own (see `plan_runs.py`).
Ends with 1 when a prediction is off by more than 10 %.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from contest import Memory, did_the_task
from plan_runs import (
    FAMILIES,
    conclude,
    examples_of,
    load_weights_of,
    measure_all,
    recipe_of,
    save,
    sets_of,
)

# Tokens of each example of a step, which is one micro-batch.
BATCHES = {"many short": [256] * 32, "few long": [1500, 1300, 1200]}


def main() -> None:
    """Measure every configuration, print and write the table."""
    if did_the_task(answer):
        return
    possible = configurations()
    rows = measure_all(__file__, possible, __doc__)
    heading = "Peak memory, predicted and measured"
    conclude(rows, possible, of="two steps", heading=heading, held=("peak", "load"))


def configurations() -> dict[str, dict[str, Any]]:
    """{name: task}."""
    found = {}
    for family, storage, kind, recompute, batch in product(
        FAMILIES, ("none", "nf4"), ("lora", "dora"), ("none", "full"), BATCHES
    ):
        name = f"{family}-{storage}-{kind}-{recompute}-{batch.replace(' ', '-')}"
        found[name] = {
            "family": family,
            "quantization": storage,
            "use_dora": kind == "dora",
            "recompute": recompute,
            "lengths": BATCHES[batch],
        }
    return found


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task, in the process that was started for it."""
    return {"save": save, "plan": plan_one, "train": train_one}[task["do"]](task)


def plan_one(task: dict[str, Any]) -> dict[str, Any]:
    """What is predicted."""
    from lorakit.plan.plan import plan

    planned = plan(recipe_of(task), sets=sets_of(task))
    memory = planned.memory
    constant = memory.weights + memory.adapter + memory.gradients + memory.optimizer
    # Neither all of lorakit's rooms nor a tokenizer are in a process of this script.
    elsewhere = planned.peaks.held_from_the_start
    peak = planned.peaks.phases["training_step"] - elsewhere
    return {
        "peak": peak,
        "load": planned.peaks.phases["loading"] - elsewhere,
        "activations": peak
        - constant
        - (planned.peaks.libraries - elsewhere)
        - planned.peaks.dense_copies,
    }


def train_one(task: dict[str, Any]) -> dict[str, Any]:
    """What was measured."""
    import transformers

    from lorakit.adapters.attach import attach_adapter
    from lorakit.train.loop import train
    from lorakit.train.memory import peak_bytes
    from lorakit.train.settings import LoopSettings

    transformers.logging.set_verbosity_error()
    recipe = recipe_of(task)
    memory = Memory()
    cpu = torch.device("cpu")
    model = load_weights_of(recipe)
    load = peak_bytes(cpu)
    attach_adapter(model, recipe.adapter)
    memory.forget()  # the load has a peak of its own
    train(model, examples_of(task), LoopSettings.from_section(recipe.train, packing=True))
    return {"load": load, "peak": peak_bytes(cpu)}


if __name__ == "__main__":
    main()
