"""What smaller micro-batches cost in time and save in memory: lorakit against itself.

    python benchmarks/token_budget.py
    python benchmarks/token_budget.py --shape tiny --pairs 1 --budgets 256 512

Models, rows and hyperparameters are those of `sft_peers.py`. Every measurement is a process of its
own, and the budgets take turns. Timed are whole optimizer steps, after --warmup steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import sft_variants
from contest import (
    MIB,
    at_least_one,
    by_turns,
    conditions,
    in_a_process,
    ratios,
    results_file,
    spread,
    table,
    work_folder,
)
from page import write_section
from workload import CONFIGS, ROWS_PER_STEP, make_rows, num_tokens, steps_of, training_parser

COLUMNS = ("variant", "tokens of a micro-batch", "tokens/s", "time of the largest's", "peak MiB")


def main() -> None:
    """Let the budgets take turns and write the section."""
    parser = training_parser(__doc__)
    parser.add_argument(
        "--variants", nargs="+", choices=sft_variants.VARIANTS, default=["lora", "qlora"]
    )
    parser.add_argument(
        "--budgets", nargs="+", type=at_least_one, default=[512, 1024, 2048], help="tokens"
    )
    options = parser.parse_args()
    with work_folder(options.workdir) as folder:
        contest(options, folder)


def contest(options: argparse.Namespace, workdir: Path) -> None:
    """Measure, print and write."""
    contestants = {
        f"{variant}, {budget}": (variant, budget)
        for variant in options.variants
        for budget in options.budgets
    }

    def run_one(do: str, name: str) -> dict[str, Any]:
        variant, budget = contestants[name]
        task = {
            "do": do,
            "shape": options.shape,
            "model": str(workdir / options.shape),
            "adapter": str(workdir / f"{options.shape}-{variant}-0"),
            "variant": variant,
            "dropout": 0.0,
            "budget": budget,
            "rows": options.rows,
            "num_steps": options.warmup + options.steps,
            "warmup": options.warmup,
        }
        return in_a_process(sft_variants.__file__, task, options.threads)

    for variant in options.variants:
        run_one("files", f"{variant}, {options.budgets[0]}")
    measured = by_turns(list(contestants), options.pairs, lambda name: run_one("train", name))
    vocabulary = CONFIGS[options.shape].vocab_size
    steps = steps_of(make_rows(options.rows, options.warmup + options.steps, vocabulary))
    sizes = ", ".join(f"{num_tokens(step):,}" for step in steps[options.warmup :])
    text = f"""{conditions()}

Random weights of the shape, float32, rank 16 on all linear layers; 4-bit: NF4 with double
quantization. {ROWS_PER_STEP} rows a step: {sizes} tokens. Medians (lowest - highest) of
{options.pairs} measurements of {options.steps} steps after {options.warmup}, each in its own
process, by turns. Times are compared turn by turn.

{table(COLUMNS, table_lines(measured, options.variants, options.budgets))}
"""
    print(text)
    path = results_file("token_budget")
    write_section(f"Micro-batches, {options.shape}, {options.rows} rows", text, path)
    content = {"conditions": conditions(), "measured": measured}
    path.with_name(f"{path.stem}_{options.shape}_{options.rows}.json").write_text(
        json.dumps(content, indent=1) + "\n", "utf-8"
    )


def table_lines(
    measured: dict[str, list[dict[str, Any]]], variants: list[str], budgets: list[int]
) -> list[list[str]]:
    """One line per variant and budget; times in the ratio of the largest budget's of that turn."""
    lines = []
    for variant in variants:
        largest = [sum(one["seconds"]) for one in measured[f"{variant}, {max(budgets)}"]]
        for budget in budgets:
            ones = measured[f"{variant}, {budget}"]
            seconds = [sum(one["seconds"]) for one in ones]
            speeds = [sum(one["tokens"]) / sum(one["seconds"]) for one in ones]
            compared = "" if budget == max(budgets) else spread(ratios(seconds, largest), ".2f")
            peaks = spread([one["peak_bytes"] / MIB for one in ones], ",.0f")
            lines.append([variant, str(budget), spread(speeds, ",.1f"), compared, peaks])
    return lines


if __name__ == "__main__":
    main()
