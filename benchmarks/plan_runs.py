"""Runs of random bases whose memory is predicted and then measured, each in its own process.

What the scripts `plan_memory.py`, `plan_evaluation.py` and `plan_libraries.py` share: bases, rows,
recipes, the table. A base is made by this file, and so small beside its micro-batches that
activations are most of the peak. Memory is resident memory at the highest, less what the
interpreter held after all imports, as in `peak_bytes` of metrics.jsonl. The plan is made in another
process, from config.json and lengths.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import MIB, in_a_process, results_file, table, work_folder
from page import command, machine, write_section

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 8, "num_key_value_heads": 4},
    "qwen3": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 48},
    "gemma2": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64},
}
COMMON = {
    "vocab_size": 2048,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
NUM_STEPS = 2
RANK = 16
LIMIT = 0.10

Tasks = dict[str, dict[str, Any]]


def measure_all(script: str, possible: Tasks, description: str | None) -> list[dict[str, Any]]:
    """Measure the configurations that the command line asks for.

    Args:
        script: whose processes plan and measure; its tasks are named by "do".
        possible: {name: task}.
        description: of the script.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="configurations whose name begins so")
    parser.add_argument("--threads", type=int, help="of the CPU; left out: torch's choice")
    parser.add_argument("--workdir", type=Path, help="where models are kept for the next time")
    options = parser.parse_args()
    names = [name for name in possible if name.startswith(options.only)]
    if not names:
        parser.error(f"no configuration begins with {options.only!r}")

    def measured(name: str) -> dict[str, Any]:
        return measure(script, name, possible[name], folder, options.threads)

    with work_folder(options.workdir) as folder:
        # Ops of each storage are compiled, which takes far more, where they are not yet.
        for name in {possible[name]["quantization"]: name for name in reversed(names)}.values():
            measured(name)
        return [measured(name) for name in names]


def measure(
    script: str, name: str, task: dict[str, Any], folder: Path, threads: int | None
) -> dict[str, Any]:
    """One line of the table, told on stderr as it is made."""
    started = time.perf_counter()
    task = task | {"model": str(folder / name.partition("-")[0])}
    if not Path(task["model"]).is_dir():
        in_a_process(script, task | {"do": "save"}, threads)
    planned = in_a_process(script, task | {"do": "plan"}, threads)
    does = "evaluate" if "held_out" in task else "train"
    measured = in_a_process(script, task | {"do": does}, threads)
    row = {"name": name, "planned": planned, "measured": measured}
    row |= {"held_out": task["held_out"]} if "held_out" in task else {}
    for what in ("peak", "load"):
        row[f"{what}_error"] = planned[what] / measured[what] - 1
    seconds = time.perf_counter() - started
    print(f"{name}: {row['peak_error']:+.1%}, {seconds:.0f} s", file=sys.stderr)
    return row


def conclude(
    rows: list[dict[str, Any]], possible: Tasks, *, of: str, heading: str, held: Sequence[str]
) -> None:
    """Print the table, write it where all were measured, and end with 1 where one is off.

    Args:
        of: what was measured, in the sentence above the table.
        heading: of the section; the file is named like the script.
        held: which of "peak" and "load" must be within `LIMIT`.
    """
    text = report(rows, of)
    print(text)
    if len(rows) == len(possible):
        path = results_file(Path(sys.argv[0]).stem)
        write_section(heading, text, path)
        path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    sys.exit(any(abs(row[f"{what}_error"]) > LIMIT for row in rows for what in held))


def report(rows: list[dict[str, Any]], of: str) -> str:
    """The table, and how it came about."""
    lines = []
    for row in rows:
        planned, measured = row["planned"], row["measured"]
        lines.append(
            [
                row["name"],
                *(f"{one / MIB:,.0f}" for one in (planned["peak"], measured["peak"])),
                f"{row['peak_error']:+.1%}",
                f"{planned['activations'] / planned['peak']:.0%}",
                *(f"{one / MIB:,.0f}" for one in (planned["load"], measured["load"])),
                f"{row['load_error']:+.1%}",
            ]
        )
    columns = ["configuration", "predicted MiB", "measured MiB", "error", "of it activations"]
    columns += ["load predicted", "load measured", "error"]
    worst = {what: max(abs(row[f"{what}_error"]) for row in rows) for what in ("peak", "load")}
    return f"""Written by `{command()}`. {machine()}

Peak of {of} beside what the interpreter held after all imports, in a process of its own each.
Largest error of the peak {worst["peak"]:.1%}, of the load {worst["load"]:.1%}.

{table(columns, lines)}
"""


def save(task: dict[str, Any]) -> dict[str, Any]:
    """A random model of the family."""
    from transformers import AutoModelForCausalLM

    from lorakit.base import attention
    from lorakit.base.config import model_config

    attention.register()
    sizes = COMMON | FAMILIES[task["family"]] | task.get("sizes", {})
    config = model_config({"model_type": task["family"], **sizes})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(task["model"])
    return {}


def examples_of(task: dict[str, Any]) -> Any:
    """The rows of all steps."""
    return rows_of(task["lengths"] * NUM_STEPS)


def rows_of(lengths: list[int]) -> Any:
    """Rows of these lengths, half of each trained."""
    from lorakit.data.examples import Example, examples_in_memory

    made = []
    for length in lengths:
        weights = np.zeros(length, dtype=np.float32)
        weights[length // 2 :] = 1
        made.append(Example(np.full(length, 5, dtype=np.int32), weights))
    return examples_in_memory(made)


def sets_of(task: dict[str, Any]) -> Any:
    """The same and the sets to measure on, as the plan takes them."""
    from lorakit.plan.rows import Sets

    examples = examples_of(task)
    held_out = {name: rows_of(lengths) for name, lengths in task.get("held_out", {}).items()}
    return Sets(examples, np.ones(len(examples)), evaluation=held_out)


def recipe_of(task: dict[str, Any]) -> Any:
    """The recipe of a configuration."""
    from lorakit.recipe import parse_recipe

    base = {"model": task["model"], "device": "cpu", "quantization": task["quantization"]}
    train = {
        "max_steps": NUM_STEPS,
        "batch_size": len(task["lengths"]),
        "micro_batch_tokens": task.get("micro_batch_tokens", sum(task["lengths"])),
        "gradient_checkpointing": task["recompute"] == "full",
        "worst_batch_first": False,
        "compact_heap": True,
    }
    adapter = {"r": RANK, "use_dora": task["use_dora"]}
    values = {"base": base, "adapter": adapter, "train": train, "data": {"train": "rows.jsonl"}}
    if "held_out" in task:
        values["evaluate"] = dict.fromkeys(task["held_out"], "rows.jsonl") | task["evaluate"]
    return parse_recipe(values)


def load_weights_of(recipe: Any) -> Any:
    """The base, without a tokenizer, of which there is none."""
    from lorakit.base.config import model_config, read_config
    from lorakit.base.load import load_weights

    folder = Path(recipe.base.model)
    model, _ = load_weights(
        folder,
        model_config(read_config(folder / "config.json")),
        quantization=recipe.base.quantization,
        double_quantization=recipe.base.double_quantization,
        block_size=recipe.base.block_size,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    return model
