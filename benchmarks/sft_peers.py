"""Training: lorakit against PEFT + TRL + bitsandbytes, and both against a ceiling.

    python benchmarks/sft_peers.py
    python benchmarks/sft_peers.py --shape qwen2.5-0.5b --rows long --variants lora --steps 2
    python benchmarks/sft_peers.py --shape tiny --pairs 1 --steps 3

Same model files, starting adapter, token ids, labels and hyperparameters: rank 16 on all linear
layers, 8 rows a step, AdamW at 2e-4, float32. Every measurement is a process of its own, and the
contestants take turns: lorakit, each setting of the peers, the ceiling, and again. Timed are whole
optimizer steps from end to end, after --warmup steps.

The ceiling is a replay of the steps' bare matrix products (`replay.py`), cut into micro-batches as
lorakit cut them. Of the peers' settings (`sft_theirs.py`), `default` is TRL's: two rows padded to
one length, layers recomputed; the others are what a knowing user might choose.
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
    without_places,
    work_folder,
)
from page import write_section
from workload import (
    CONFIGS,
    ROWS_PER_STEP,
    Row,
    make_rows,
    num_tokens,
    save_model,
    steps_of,
    training_parser,
)

VARIANTS = ("lora", "qlora", "qdora")
PEER_SETTINGS = ("default", "padded", "single", "padding_free", "packed")
OURS, CEILING = "lorakit", "ceiling"
COLUMNS = (
    "variant",
    "contestant",
    "tokens/s",
    "share of the ceiling",
    "lorakit is faster by",
    "CPU s per 1,000 tokens",
    "peak MiB",
    "peak of loading, MiB",
    "lorakit takes of its peak",
    "largest difference of a loss",
)


def main() -> None:
    """Hold the contest of every variant and write the section."""
    if did_the_task(answer):
        return
    parser = training_parser(__doc__)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument(
        "--peer-settings", nargs="+", choices=PEER_SETTINGS, default=["default", "padding_free"]
    )
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--micro-batch-tokens", type=int, help="lorakit's; left out: its choice")
    parser.add_argument("--compact-heap", action="store_true", help="lorakit with its compact heap")
    options = parser.parse_args()
    with work_folder(options.workdir) as folder:
        contest(options, folder)


def contest(options: argparse.Namespace, workdir: Path) -> None:
    """Measure, print and write."""
    task = {
        "shape": options.shape,
        "model": str(workdir / options.shape),
        "rows": options.rows,
        "num_steps": options.warmup + options.steps,
        "warmup": options.warmup,
        "dropout": options.dropout,
        "settings": {
            "micro_batch_tokens": options.micro_batch_tokens,
            "compact_heap": options.compact_heap,
        },
    }
    run_one(options, task | {"do": "model"})
    path = results_file("sft_peers")
    for variant in options.variants:
        adapter = workdir / f"{options.shape}-{variant}-{options.dropout:g}"
        of_variant = task | {"variant": variant, "adapter": str(adapter)}
        run_one(options, of_variant | {"do": "adapter"})
        measured = measure_variant(options, of_variant)
        lines = table_lines(variant, measured, options)
        print(table(COLUMNS, lines), flush=True)
        words = ", ".join([*said(options), variant])
        write_section(f"Training, {words}", section(options, lines), path)
        name = "_".join([path.stem, *words.replace(" rows", "").replace(" ", "").split(",")])
        content = {
            "conditions": conditions(),
            "task": without_places(of_variant),
            "measured": measured,
        }
        path.with_name(f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def said(options: argparse.Namespace) -> list[str]:
    """What the heading and the name of a file say of the settings."""
    words = [options.shape, f"{options.rows} rows", f"dropout {options.dropout:g}"]
    if options.micro_batch_tokens is not None:
        words.append(f"micro-batches {options.micro_batch_tokens}")
    if options.compact_heap:
        words.append("compact heap")
    return words


def measure_variant(options: argparse.Namespace, task: dict[str, Any]) -> dict[str, Any]:
    """{contestant: its measurements}; the ceiling is cut as lorakit's last run was."""
    budget = 0

    def measure(name: str) -> dict[str, Any]:
        nonlocal budget
        result = run_one(options, task | {"do": name, "budget": budget})
        if name == OURS:
            budget = result["choices"]["micro_batch_tokens"]
        return result

    return by_turns([OURS, *options.peer_settings, CEILING], options.pairs, measure)


def run_one(options: argparse.Namespace, task: dict[str, Any]) -> dict[str, Any]:
    """One task in a process of its own."""
    return in_a_process(__file__, task, options.threads)


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task, in the process that was started for it; what it does not need is not loaded."""
    model, do = Path(task["model"]), task["do"]
    vocabulary = CONFIGS[task["shape"]].vocab_size
    rows = make_rows(task["rows"], task["num_steps"], vocabulary)
    if do == "model":
        import torch

        save_model(task["shape"], model, torch.float32)
        return {}
    if do == CEILING:
        return replayed(task, rows)
    adapter, variant = Path(task["adapter"]), task["variant"]
    if do == "adapter":
        from sft_ours import make_adapter

        make_adapter(model, variant, task["dropout"], adapter)
        return {}
    if do == OURS:
        import sft_ours

        return sft_ours.measure(model, adapter, variant, rows, task["warmup"], **task["settings"])
    import sft_theirs

    return sft_theirs.measure(model, adapter, variant, rows, task["warmup"], do)


def replayed(task: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    """The ceiling's measurement, in the form of the contestants'."""
    import replay
    from sft_ours import RANK

    from lorakit.data.pack import pack

    steps = []
    for step in steps_of(rows):
        lengths = [len(row.input_ids) for row in step]
        steps.append(
            [
                replay.Piece(
                    tuple(lengths[i] for i in group),
                    sum(lengths[i] - step[i].prompt for i in group),
                )
                for group in pack(lengths, task["budget"])
            ]
        )
    warmup = task["warmup"]
    result = replay.measure(CONFIGS[task["shape"]], RANK, steps, warmup)
    return result | {"tokens": [num_tokens(step) for step in steps_of(rows)][warmup:]}


def table_lines(
    variant: str, measured: dict[str, Any], options: argparse.Namespace
) -> list[list[str]]:
    """One line per contestant; ratios are those of the pairs."""
    speeds = {name: [speed(one) for one in ones] for name, ones in measured.items()}
    vocabulary = CONFIGS[options.shape].vocab_size
    rows = make_rows(options.rows, options.warmup + options.steps, vocabulary)
    lines = []
    for name, ones in measured.items():
        line = [variant, name, spread(speeds[name], ",.1f"), "", "", "", "", "", "", ""]
        line[5] = spread([one["cpu_seconds"] / num_tokens(rows) * 1000 for one in ones], ".1f")
        if name != CEILING:
            line[3] = spread(ratios(speeds[name], speeds[CEILING]), ".1%")
            line[6] = spread([one["peak_bytes"] / MIB for one in ones], ",.0f")
            line[7] = spread([one["load_peak_bytes"] / MIB for one in ones], ",.0f")
        if name not in (OURS, CEILING):
            line[4] = spread(ratios(speeds[OURS], speeds[name]), ".2f")
            peaks = [[one["peak_bytes"] for one in measured[who]] for who in (OURS, name)]
            line[8] = spread(ratios(*peaks), ".2f")
            line[9] = f"{largest_difference(measured[OURS], ones):.1e}"
        lines.append(line)
    return lines


def speed(measurement: dict[str, Any]) -> float:
    """Tokens per second, padding not counted."""
    return sum(measurement["tokens"]) / sum(measurement["seconds"])


def largest_difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    """Between the losses of a step, over all steps and pairs."""
    return max(
        abs(a - b)
        for mine, other in zip(ours, theirs, strict=True)
        for a, b in zip(mine["losses"], other["losses"], strict=True)
    )


def section(options: argparse.Namespace, lines: list[list[str]]) -> str:
    """The section's text."""
    vocabulary = CONFIGS[options.shape].vocab_size
    rows = make_rows(options.rows, options.warmup + options.steps, vocabulary)
    timed = steps_of(rows)[options.warmup :]
    tokens = sum(map(num_tokens, timed)) / len(timed)
    trained = sum(len(row.input_ids) - row.prompt for step in timed for row in step) / len(timed)
    return f"""{conditions()}

Random weights of the shape, float32, rank 16 on all linear layers, alpha 32; 4-bit: NF4 with double
quantization. {ROWS_PER_STEP} rows a step, {tokens:,.0f} tokens of which {trained:,.0f} are trained.
Medians (lowest - highest) of {options.pairs} measurements of {options.steps} steps after
{options.warmup}, each in its own process, by turns. Tokens per second without padding. CPU seconds
are those of the whole training, warm-up included. Peak: the process's resident memory while
training. Speeds and peaks are compared pair by pair. Losses: of every step, lorakit's against the
peer's; with dropout the masks differ.

{table(COLUMNS, lines)}
"""


if __name__ == "__main__":
    main()
