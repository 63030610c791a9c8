"""GRPO: lorakit against transformers' ways to generate and against TRL's GRPOTrainer.

    python benchmarks/grpo_peers.py
    python benchmarks/grpo_peers.py --contests rollouts --shape smollm2-135m --pairs 3
    python benchmarks/grpo_peers.py --contests steps --peer-steps default fast continuous

Same model files, float32, 8 prompts of 32 to 128 tokens and 8 answers of each, sampled at
temperature 1, whose mean length is 0.3 of the longest that is allowed (`grpo_work.py`). Every
measurement is a process of its own, and the contestants take turns.

Rollouts: the plain base; the length of each answer is given, the same for all. Timed is one call
after a small one; a token counts once, if it lies within its answer.

Steps: rank 16 on all linear layers; timed are whole steps from end to end, after --warmup steps:
rollouts, rewards, one optimizer step of all 64 answers. Each draws its own answers, of lengths from
one distribution. Peak: the process's resident memory while training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from contest import (
    MIB,
    at_least_one,
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
from grpo_work import GROUP_SIZE, GROUPS, MEAN_SHARE, Roller, Work, make_work
from page import write_section
from workload import CONFIGS, save_model

CONTESTS = ("rollouts", "steps")
# What is measured unless told otherwise: the best settings of both ways to generate, as measured.
ROLLOUTS = ("generate", "generate_static", "batched")
OURS = "lorakit"
ROLLOUT_COLUMNS = (
    "contestant",
    "tokens/s",
    "lorakit is faster by",
    "CPU s",
    "of its CPU s lorakit takes",
)
STEP_COLUMNS = (
    "contestant",
    "s per step",
    "lorakit is faster by",
    "CPU s of all steps",
    "tokens of an answer",
    "in groups without variance",
    "peak MiB",
    "lorakit takes of its peak",
    "above its imports, MiB",
    "lorakit takes of that",
)


def main() -> None:
    """Hold the contests and write their sections."""
    if did_the_task(answer):
        return
    parser = contest_parser(__doc__)
    parser.add_argument("--contests", nargs="+", choices=CONTESTS, default=CONTESTS)
    parser.add_argument("--shape", choices=CONFIGS, default="builtin")
    parser.add_argument("--most", type=int, default=256, help="tokens that an answer may have")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a measurement")
    parser.add_argument("--warmup", type=at_least_one, default=1, help="steps before them")
    parser.add_argument("--peer-rollouts", nargs="*", default=list(ROLLOUTS))
    parser.add_argument("--peer-steps", nargs="*", default=["default", "fast"])
    parser.add_argument("--compact-heap", action="store_true", help="lorakit with its compact heap")
    parser.add_argument("--workdir", type=Path, help="where models are kept for the next time")
    options = parser.parse_args()
    with work_folder(options.workdir) as folder:
        task = {
            "shape": options.shape,
            "model": str(folder / options.shape),
            "most": options.most,
            "num_steps": options.warmup + options.steps,
            "warmup": options.warmup,
            "compact_heap": options.compact_heap,
        }
        in_a_process(__file__, task | {"contest": "model"}, options.threads)
        for name in options.contests:
            contest(options, task | {"contest": name})


def contest(options: argparse.Namespace, task: dict[str, Any]) -> None:
    """Measure, print and write one of them."""
    rollouts = task["contest"] == "rollouts"
    peers = options.peer_rollouts if rollouts else options.peer_steps
    measured = by_turns(
        [OURS, *peers],
        options.pairs,
        lambda name: in_a_process(__file__, task | {"do": name}, options.threads),
    )
    lines = rollout_lines(measured) if rollouts else step_lines(measured)
    columns = ROLLOUT_COLUMNS if rollouts else STEP_COLUMNS
    print(table(columns, lines), flush=True)
    path = results_file("grpo_peers")
    words = f"{task['contest']}, {options.shape}, up to {options.most} tokens"
    names = [path.stem, task["contest"], options.shape, str(options.most)]
    if options.compact_heap and not rollouts:
        words += ", compact heap"
        names.append("compactheap")
    write_section(f"GRPO: {words}", section(options, task, table(columns, lines)), path)
    name = "_".join(names)
    content = {"conditions": conditions(), "task": without_places(task), "measured": measured}
    path.with_name(f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task, in the process that was started for it; what it does not need is not loaded."""
    model = Path(task["model"])
    if task["contest"] == "model":
        import torch

        save_model(task["shape"], model, torch.float32)
        return {}
    work = make_work(CONFIGS[task["shape"]].vocab_size, task["most"])
    if task["contest"] == "rollouts":
        return rolled_out(model, work, task["do"])
    counts = {"num_steps": task["num_steps"], "warmup": task["warmup"]}
    if task["do"] == OURS:
        import grpo_ours

        return grpo_ours.steps(model, work, **counts, compact_heap=task["compact_heap"])
    import grpo_theirs

    return grpo_theirs.steps(model, work, task["do"], **counts)


def rolled_out(model: Path, work: Work, name: str) -> dict[str, Any]:
    """What a call takes, and how many tokens it brings."""
    if name == OURS:
        import grpo_ours

        using = grpo_ours.roller(model, work)
    else:
        import grpo_theirs

        using = grpo_theirs.roller(model, work, name)
    with using as run:
        return timed(run, work)


def timed(run: Roller, work: Work) -> dict[str, Any]:
    """One call after a small one."""
    run(work.asked[: 2 * GROUP_SIZE], [3] * (2 * GROUP_SIZE))
    started, cpu_started = time.perf_counter(), time.process_time()
    lengths = run(work.asked, work.lengths)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    assert lengths == work.lengths, (lengths, work.lengths)
    return {"tokens": sum(lengths), "seconds": seconds, "cpu_seconds": cpu_seconds}


def rollout_lines(measured: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """One line per contestant; ratios are those of the pairs."""
    lines = []
    for name, ones in measured.items():
        seconds, cpu = ([one[key] for one in ones] for key in ("seconds", "cpu_seconds"))
        line = [name, spread([one["tokens"] / one["seconds"] for one in ones], ",.0f"), ""]
        line += [spread(cpu, ".1f"), ""]
        if name != OURS:
            line[2] = spread(ratios(seconds, [one["seconds"] for one in measured[OURS]]), ".2f")
            line[4] = spread(ratios([one["cpu_seconds"] for one in measured[OURS]], cpu), ".2f")
        lines.append(line)
    return lines


def step_lines(measured: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """One line per contestant; ratios are those of the pairs."""
    lines = []
    columns = {name: step_values(ones) for name, ones in measured.items()}
    for name, mine in columns.items():
        ours = columns[OURS]
        line = [name, spread(mine["seconds"], ".2f"), "", spread(mine["cpu"], ".1f")]
        line += [spread(mine["length"], ".1f"), spread(mine["flat"], ".0%")]
        line += [spread(mine["peak"], ",.0f"), ""]
        line += [spread(mine["above"], ",.0f"), ""]
        if name != OURS:
            line[2] = spread(ratios(mine["seconds"], ours["seconds"]), ".2f")
            line[7] = spread(ratios(ours["peak"], mine["peak"]), ".2f")
            line[9] = spread(ratios(ours["above"], mine["above"]), ".2f")
        lines.append(line)
    return lines


def step_values(ones: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Of each measurement: mean seconds of a step and tokens of an answer, the share of answers in
    groups without variance, CPU seconds, MiB."""
    return {
        "seconds": [statistics.mean(one["seconds"]) for one in ones],
        "cpu": [one["cpu_seconds"] for one in ones],
        "length": [statistics.mean(one["mean_lengths"]) for one in ones],
        "flat": [statistics.mean(one["without_variance"]) for one in ones],
        "peak": [one["peak_bytes"] / MIB for one in ones],
        "above": [(one["peak_bytes"] - one["imports_bytes"]) / MIB for one in ones],
    }


def section(options: argparse.Namespace, task: dict[str, Any], lines: str) -> str:
    """The section's text."""
    work = make_work(CONFIGS[options.shape].vocab_size, options.most)
    sizes = [len(prompt) for prompt in work.prompts]
    said = f"""Random weights of the shape, float32; {GROUPS} prompts of {min(sizes)} to
{max(sizes)} tokens, {GROUP_SIZE} answers of each, at temperature 1, of up to {options.most} tokens,
{MEAN_SHARE:g} of that on average. Medians (lowest - highest) of {options.pairs} measurements, each
in its own process, by turns; compared pair by pair."""
    if task["contest"] == "steps":
        said += f""" {options.steps} steps each after {options.warmup}, rank 16 on all linear
layers. CPU seconds are those of the whole training, warm-up included."""
    return f"{conditions()}\n\n{said}\n\n{lines}\n"


if __name__ == "__main__":
    main()
