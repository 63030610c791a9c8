"""Experts with adapters: lorakit's grouped products, the per-expert loop, and PEFT.

    python benchmarks/moe.py
    python benchmarks/moe.py --what block --experts 32 --top 4
    python benchmarks/moe.py --pairs 1 --steps 2 --hidden 64 --tokens 128

A small model of Qwen3-MoE's kind with random weights, float32, and LoRA on attention and on every
expert; `--what block` is one layer's experts alone, without its router's neighbours. All
contestants have the same weights, the same starting adapter and the same rows of equal length, all
tokens trained, AdamW at 2e-4. Every measurement is a process of its own, and the contestants take
turns:

lorakit        what `train` computes, one flat optimizer, rows packed
loop           transformers' loop over experts (its `eager`), each with its low-rank product
peft_grouped   PEFT's `target_parameters`, transformers' default way through the experts
peft_eager     the same with transformers' loop

The peers' steps are bare loops of PyTorch, without a trainer's own work.
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
    contest_parser,
    did_the_task,
    in_a_process,
    ratios,
    results_file,
    spread,
    table,
    without_places,
    work_folder,
)
from page import write_section

OURS = "lorakit"
CONTESTANTS = (OURS, "loop", "peft_grouped", "peft_eager")
COLUMNS = (
    "what",
    "contestant",
    "tokens/s",
    "lorakit is faster by",
    "CPU s per 1,000 tokens",
    "peak MiB",
    "lorakit takes of its peak",
    "largest difference of a loss",
)


def main() -> None:
    """Hold the contest and write the section."""
    if did_the_task(answer):
        return
    parser = contest_parser(__doc__)
    parser.add_argument("--what", nargs="+", choices=("block", "model"), default=["block", "model"])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--top", type=int, default=8, help="experts of a token")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024, help="of a step, in 4 rows")
    parser.add_argument("--storage", choices=("none", "nf4"), default="none", help="lorakit's")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a measurement")
    options = parser.parse_args()
    if OURS not in options.contestants:
        parser.error("--contestants must have lorakit: the others are compared with it")
    with work_folder(None) as folder:
        contest(options, folder)


def contest(options: argparse.Namespace, workdir: Path) -> None:
    """Measure, print and write."""
    given = ("experts", "top", "hidden", "layers", "rank", "tokens", "storage", "steps")
    task = {name: getattr(options, name) for name in given} | {"folder": str(workdir)}
    in_a_process(__file__, task | {"do": "prepare"}, options.threads)
    lines: list[list[str]] = []
    measured: dict[str, Any] = {}
    for what in options.what:

        def measure(name: str, what: str = what) -> dict[str, Any]:
            return in_a_process(__file__, task | {"do": name, "what": what}, options.threads)

        measured[what] = by_turns(options.contestants, options.pairs, measure)
        lines += table_lines(what, measured[what])
    made = table(COLUMNS, lines)
    print(made)
    path = results_file("moe")
    heading = (
        f"Experts: {options.experts}, {options.top} a token, hidden {options.hidden}, "
        f"{options.layers} layers, {options.tokens} tokens, {options.storage}"
    )
    write_section(heading, section(options, made), path)
    name = f"{path.stem}_{options.experts}of{options.top}_{options.hidden}_{options.storage}.json"
    content = {"conditions": conditions(), "task": without_places(task), "measured": measured}
    path.with_name(name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task, in the process that was started for it; what it does not need is not loaded."""
    import moe_contestants

    if task["do"] == "prepare":
        moe_contestants.prepare(task)
        return {}
    return moe_contestants.measure(task)


def table_lines(what: str, measured: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """One line per contestant; ratios are those of the pairs."""
    speeds = {name: [one["tokens"] / one["seconds"] for one in m] for name, m in measured.items()}
    peaks = {name: [one["peak_bytes"] for one in m] for name, m in measured.items()}
    lines = []
    for name, ones in measured.items():
        line = [what, name, spread(speeds[name], ",.0f"), "", "", "", "", ""]
        line[4] = spread([one["cpu_seconds"] / one["tokens"] * 1000 for one in ones], ".2f")
        line[5] = spread([peak / MIB for peak in peaks[name]], ",.0f")
        if name != OURS:
            line[3] = spread(ratios(speeds[OURS], speeds[name]), ".2f")
            line[6] = spread(ratios(peaks[OURS], peaks[name]), ".2f")
            pairs = zip(measured[OURS], ones, strict=True)
            line[7] = f"{max(differences(*pair) for pair in pairs):.1e}"
        lines.append(line)
    return lines


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest between the losses of a step, relative."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours["losses"], theirs["losses"], strict=True))


def section(options: argparse.Namespace, made: str) -> str:
    """The section's text."""
    return f"""{conditions()}

Random weights, float32 (lorakit's base: {options.storage}), rank {options.rank} on attention and on
every expert. Medians (lowest - highest) of {options.pairs} measurements of {options.steps} steps
after one, each in its own process, by turns. `block`: the experts of one layer with their router,
forward and backward. `model`: a whole training step. Peak: the process's resident memory in
training. Speeds and peaks are compared pair by pair.

{made}
"""


if __name__ == "__main__":
    main()
