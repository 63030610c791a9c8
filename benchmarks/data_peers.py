"""Rows per second of making training data: lorakit, TRL, and the bare tokenizer.

    python benchmarks/data_peers.py                    # comparison and second start
    python benchmarks/data_peers.py --growth 1000 10000 100000 1000000
    python benchmarks/data_peers.py --rows 2000 --pairs 1  # a quick look

Questions and answers of a JSONL file become token ids with a mask for the answers, and batches.
Every measurement is a process of its own; the lines take turns, so that a busy minute hits all of
them. Start-up (imports, loading the tokenizer) is not counted. On a machine that does other things
as well, the CPU time of a row says more than the speed. What is timed:

- `bare tokenizer`: `encode_batch` of tokenizers on exactly the texts that lorakit renders.
- `lorakit`: from the file to the store on disk and one epoch's order; reading the rows, the checks
  of the data contract and the start of the template's process included. Packing is done step by
  step, and timed apart.
- `lorakit, second start`: the same again, in another process.
- `lorakit, rows in memory`: from a list of dicts that was read already.
- `trl`: the preparation of `SFTTrainer` itself, by making one with a model of one tiny layer, from
  a `datasets.Dataset` that was read already: prompt and completion as messages, packed best-fit
  decreasing into rows of --max-length tokens; in one process, and in as many as there are cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
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
)
from page import write_section

SHARED = Path(__file__).parents[2] / "shared" / "data"
BARE, OURS, SECOND = "bare tokenizer", "lorakit", "lorakit, second start"
IN_MEMORY, TRL, TRL_ALL = "lorakit, rows in memory", "trl", "trl, all cores"
LINES = (BARE, OURS, SECOND, IN_MEMORY, TRL, TRL_ALL)
GROWTH = "growth"
COLUMNS = (
    "",
    "rows/s",
    "of the bare tokenizer's",
    "of the faster trl's",
    "CPU ms a row",
    "peak MiB",
)
GROWTH_COLUMNS = (
    "rows",
    "seconds",
    "ms a row",
    "CPU ms a row",
    "an epoch's order and batches, us a row",
    "a step's batch, ms",
    "second start, s",
    "peak MiB",
)


def main() -> None:
    """Measure what was asked for, print it and write the section."""
    if did_the_task(answer):
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "tokenizers" / "gpt2")
    parser.add_argument("--data", type=Path, default=SHARED / "medquad" / "medquad_train.jsonl")
    parser.add_argument("--rows", type=int, help="only so many, drawn at random")
    parser.add_argument("--pairs", type=int, default=5, help="how often every line is measured")
    parser.add_argument("--max-length", type=int, default=8192, help="of TRL's packs")
    parser.add_argument("--lines", nargs="+", choices=LINES, default=LINES, help="in this order")
    parser.add_argument("--growth", type=int, nargs="+", help="lorakit at these sizes instead")
    parser.add_argument("--characters", type=int, default=200, help="of an answer, under --growth")
    options = parser.parse_args()
    if not options.data.exists() or not options.tokenizer.exists():
        parser.error(f"{options.data} and {options.tokenizer} are needed; name others.")
    with tempfile.TemporaryDirectory() as folder:
        measure = grow if options.growth else compare
        measure(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Every line in turn."""
    from data_rows import sample

    data = options.data
    if options.rows is not None:
        data = sample(data, options.rows, folder / "sample.jsonl")
    rounds: dict[str, int] = dict.fromkeys(options.lines, 0)

    def measure(line: str) -> dict[str, Any]:
        rounds[line] += 1
        # A first start fills a folder of its own, which the second start of its round finds.
        name = OURS if line == SECOND else line
        return _measured(options, line, data, folder / f"{name} {rounds[line]}")

    measured = by_turns(options.lines, options.pairs, measure)
    text = f"{table(COLUMNS, comparison_lines(measured))}\n\n{comparison_words(measured)}"
    _tell("Making training data", "compared", text, measured, options)


def comparison_lines(measured: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """The rows of the table; ratios are of measurements of the same round."""
    speeds = {
        line: [one["rows"] / one["seconds"] for one in many] for line, many in measured.items()
    }
    trl = [speeds[line] for line in (TRL, TRL_ALL) if line in speeds]
    best_trl = [max(each) for each in zip(*trl, strict=True)]
    lines = []
    for line, many in measured.items():
        cpu = [one["cpu_seconds"] / one["rows"] * 1e3 for one in many]
        peak = statistics.median(one["peak_bytes"] for one in many) / MIB
        lines.append(
            [
                line,
                spread(speeds[line], ",.0f"),
                _ratio(speeds[line], speeds.get(BARE)),
                _ratio(speeds[line], best_trl),
                spread(cpu, ".3f"),
                f"{peak:,.0f}",
            ]
        )
    return lines


def comparison_words(measured: dict[str, list[dict[str, Any]]]) -> str:
    """What the table has no column for."""
    every = [one for many in measured.values() for one in many]
    words = f"{int(every[0]['rows'])} rows; tokens: {sorted({int(one['tokens']) for one in every})}"
    batches = [one["step_ms"] for one in every if "step_ms" in one]
    if batches:
        words += f". A step's batch, read, packed and laid out: {spread(batches, '.2f')} ms"
    if SECOND in measured:
        words += f". Second start: {spread([o['seconds'] for o in measured[SECOND]], '.2f')} s"
    if BARE in measured and OURS in measured:
        share = _ratio(*([o["cpu_seconds"] for o in measured[line]] for line in (BARE, OURS)))
        words += f". The bare tokenizer's CPU time is {share} of lorakit's"
    return words + "."


def grow(options: argparse.Namespace, folder: Path) -> None:
    """lorakit's time and memory at growing numbers of rows."""
    from data_rows import grown

    measured: dict[str, Any] = {}
    lines: list[list[str]] = []
    for count in options.growth:
        data = grown(options.data, count, options.characters, folder / f"{count}.jsonl")
        one = measured[str(count)] = _measured(options, GROWTH, data, folder / str(count))
        data.unlink()
        lines.append(
            [
                f"{count:,}",
                f"{one['seconds']:.1f}",
                f"{one['seconds'] / count * 1e3:.3f}",
                f"{one['cpu_seconds'] / count * 1e3:.3f}",
                f"{one['order_seconds'] / count * 1e6:.2f}",
                f"{one['step_ms']:.2f}",
                f"{one['second_seconds']:.2f}",
                f"{one['peak_bytes'] / MIB:,.0f}",
            ]
        )
        print(lines[-1], file=sys.stderr, flush=True)
    text = table(GROWTH_COLUMNS, lines)
    _tell("Making training data, as rows grow", "growth", text, measured, options)


def answer(task: dict[str, Any]) -> dict[str, float]:
    """Do one task, in the process that was started for it; what it does not need is not loaded."""
    line = task["do"]
    if line in (TRL, TRL_ALL):
        import data_theirs

        return data_theirs.prepare(task, None if line == TRL else os.cpu_count())
    import data_ours

    if line == BARE:
        return data_ours.bare(task)
    if line == SECOND:
        return data_ours.second_start(task)
    if line == GROWTH:
        return data_ours.growth(task)
    return data_ours.first_start(task, in_memory=line == IN_MEMORY)


def _measured(options: argparse.Namespace, line: str, data: Path, cache: Path) -> dict[str, Any]:
    task = {
        "do": line,
        "data": str(data),
        "tokenizer": str(options.tokenizer),
        "max_length": options.max_length,
        "cache": str(cache),
    }
    return in_a_process(__file__, task, all_cores_tokenize=True)


def _ratio(many: list[float], of: list[float] | None) -> str:
    return spread(ratios(many, of), ".2f") if of else f"{math.nan}"


def _tell(
    heading: str, kind: str, text: str, measured: dict[str, Any], options: argparse.Namespace
) -> None:
    """Print the section, and write it and the measurements under benchmarks/results/."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    words = f"Tokenizer {options.tokenizer.name}, data {options.data.name}. {conditions()}"
    section = f"{text}\n\n{words} Load at the end: {load}."
    print(section)
    path = results_file("data_peers")
    write_section(f"{heading}, {options.tokenizer.name}", section, path)
    content = {"conditions": words, "measured": measured}
    name = f"{path.stem}_{kind}_{options.tokenizer.name}.json"
    path.with_name(name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
