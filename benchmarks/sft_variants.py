"""What 4 bits, DoRA and dropout cost in training: lorakit's variants against its own LoRA.

    python benchmarks/sft_variants.py
    python benchmarks/sft_variants.py --shape tiny --pairs 1

Models, rows and hyperparameters are those of `sft_peers.py`. Every measurement is a process of its
own, and the variants take turns. Timed are whole optimizer steps, after --warmup steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from contest import (
    MIB,
    by_turns,
    conditions,
    did_the_task,
    in_a_process,
    ratios,
    results_file,
    spread,
    table,
    work_folder,
)
from page import write_section
from workload import CONFIGS, ROWS_PER_STEP, make_rows, save_model, training_parser

# Variant -> the one on the same base without DoRA.
VARIANTS = {"lora": "lora", "dora": "lora", "qlora": "qlora", "qdora": "qlora"}
COLUMNS = (
    "variant",
    "dropout",
    "tokens/s",
    "time of LoRA's",
    "time of the same base without DoRA",
    "peak MiB",
)


def main() -> None:
    """Let the variants take turns and write the section."""
    if did_the_task(answer):
        return
    parser = training_parser(__doc__)
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.0, 0.05])
    options = parser.parse_args()
    with work_folder(options.workdir) as folder:
        contest(options, folder)


def contest(options: argparse.Namespace, workdir: Path) -> None:
    """Measure, print and write."""
    contestants = {
        f"{variant}, {dropout:g}": (variant, dropout)
        for dropout in options.dropout
        for variant in VARIANTS
    }

    def run_one(do: str, name: str) -> dict[str, Any]:
        variant, dropout = contestants[name]
        task = {
            "do": do,
            "shape": options.shape,
            "model": str(workdir / options.shape),
            "adapter": str(workdir / f"{options.shape}-{variant}-{dropout:g}"),
            "variant": variant,
            "dropout": dropout,
            "rows": options.rows,
            "num_steps": options.warmup + options.steps,
            "warmup": options.warmup,
        }
        return in_a_process(__file__, task, options.threads)

    for name in contestants:
        run_one("files", name)
    measured = by_turns(list(contestants), options.pairs, lambda name: run_one("train", name))
    lines = table_lines(measured, options.dropout)
    text = f"""{conditions()}

Random weights of the shape, float32, rank 16 on all linear layers; 4-bit: NF4 with double
quantization. {ROWS_PER_STEP} rows a step. Medians (lowest - highest) of {options.pairs}
measurements of {options.steps} steps after {options.warmup}, each in its own process, by turns.
Times are compared turn by turn, at the same dropout.

{table(COLUMNS, lines)}
"""
    print(text)
    path = results_file("sft_variants")
    dropouts = [f"{dropout:g}" for dropout in options.dropout]
    title = f"Variants, {options.shape}, {options.rows} rows, dropout {' and '.join(dropouts)}"
    write_section(title, text, path)
    content = {"conditions": conditions(), "measured": measured}
    name = "_".join([path.stem, options.shape, options.rows, "dropout", *dropouts])
    path.with_name(f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task, in the process that was started for it."""
    import sft_ours

    model, adapter, variant = Path(task["model"]), Path(task["adapter"]), task["variant"]
    if task["do"] == "files":
        import torch

        save_model(task["shape"], model, torch.float32)
        sft_ours.make_adapter(model, variant, task["dropout"], adapter)
        return {}
    rows = make_rows(task["rows"], task["num_steps"], CONFIGS[task["shape"]].vocab_size)
    return sft_ours.measure(
        model, adapter, variant, rows, task["warmup"], micro_batch_tokens=task.get("budget")
    )


def table_lines(
    measured: dict[str, list[dict[str, Any]]], dropouts: list[float]
) -> list[list[str]]:
    """One line per variant and dropout; times in the ratio of those of the same turn."""
    seconds = {name: [sum(one["seconds"]) for one in ones] for name, ones in measured.items()}
    lines = []
    for dropout in dropouts:
        for variant, plain in VARIANTS.items():
            name = f"{variant}, {dropout:g}"
            line = [variant, f"{dropout:g}"]
            line.append(
                spread([sum(one["tokens"]) / sum(one["seconds"]) for one in measured[name]], ",.1f")
            )
            for other in ("lora", plain):
                compared = ratios(seconds[name], seconds[f"{other}, {dropout:g}"])
                line.append("" if other == variant else spread(compared, ".2f"))
            line.append(spread([one["peak_bytes"] / MIB for one in measured[name]], ",.0f"))
            lines.append(line)
    return lines


if __name__ == "__main__":
    main()
