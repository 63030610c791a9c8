"""Every kernel against its reference, a peer where there is one, and the floor.

    python benchmarks/ops.py
    python benchmarks/ops.py --dry-run            tiny sizes, nothing is written

One process, one thread pool. After a warm-up the contestants of an op take turns: lorakit (the
backend its dispatch chooses for the device), the op's definition in plain PyTorch, the peer, and
the floor. The floor of an op is a memory copy that reads and writes as many bytes as the op has to
at least; of the fused projections, their dense products alone. Results are new tensors, as in
training, while the copy's target exists: on a CPU large ones have page faults in their time. On a
CUDA device times are those between two events, on a CPU of the wall clock; short calls are timed
many at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from contest import conditions, ratios, results_file, spread, table
from op_cases import Call, Case, Place, four_bit, of_model
from page import write_section
from workload import CONFIGS

from lorakit import kernels

MODELS = ("smollm2-135m", "qwen2.5-0.5b")
WEIGHT = (4096, 4096)
SECONDS = 0.02  # of one measurement at least
OURS, REFERENCE, PEER, FLOOR = "lorakit", "reference", "peer", "floor"


def main() -> None:
    """Measure, print and write the section."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(default))
    parser.add_argument("--dtype", help="of activations; left out: bfloat16 on CUDA, else float32")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of the CPU; left out: PyTorch's choice")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes; nothing is written")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    names = {"cpu": "float32", "cuda": "bfloat16"}
    dtype = getattr(torch, options.dtype or names[options.device.type])
    tokens, repeats = (8, 2) if options.dry_run else (options.tokens, options.repeats)
    place = Place(options.device, dtype, tokens)
    torch.manual_seed(0)
    parts, measured = [], {}
    for title, cases in themes(place, dry_run=options.dry_run):
        found = [measure(case, place.device, repeats) for case in cases]
        measured[title] = found
        parts.append(f"### {title}\n\n{result_table(found)}")
    device = hardware(place.device)
    backend = kernels.backend_name(place.device)
    tables = "\n\n".join(parts)
    text = f"""{conditions()} Device: {device}.

Activations in {str(dtype).removeprefix("torch.")}, backend {backend!r}. Milliseconds of one call,
median (lowest - highest) of {repeats} measurements, by turns; compared turn by turn. The floor is a
copy of as many bytes as the op has to read and write, into memory that exists; of the projections,
their dense products.

{tables}
"""
    print(text)
    if options.dry_run:
        return
    path = results_file("ops")
    write_section(f"Kernels, {device}, {tokens} tokens", text, path)
    content = {"conditions": conditions(), "device": device, "ms": measured}
    path.with_name(f"{path.stem}_{options.device.type}.json").write_text(
        json.dumps(content, indent=1) + "\n", "utf-8"
    )


def themes(place: Place, *, dry_run: bool) -> Iterator[tuple[str, Iterator[Case]]]:
    """(heading, cases); cases are made one by one, so that not all lie in memory."""
    for name in ("tiny",) if dry_run else MODELS:
        yield name, of_model(CONFIGS[name], place)
    if not dry_run:
        yield f"A weight of {WEIGHT[0]} x {WEIGHT[1]}", four_bit(*WEIGHT, place)


def measure(case: Case, device: torch.device, repeats: int) -> dict[str, Any]:
    """Milliseconds of each contestant, turn by turn."""
    calls = {OURS: case.ours, FLOOR: case.floor or copy_of(case.num_bytes, device)}
    if case.reference is not None:
        calls[REFERENCE] = case.reference
    if case.peer is not None:
        calls[PEER] = case.peer[1]
    loops = {name: warm_up(call, device) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call, loops[name], device))
    print(f"{case.op}, {case.size}", file=sys.stderr)
    return {
        "op": case.op,
        "size": case.size,
        "peer": None if case.peer is None else case.peer[0],
        "bytes": case.num_bytes,
        "ms": {name: [1e3 * one for one in ones] for name, ones in seconds.items()},
    }


def copy_of(num_bytes: int, device: torch.device) -> Call:
    """A copy that reads half of the bytes and writes the other half."""
    source = torch.ones(max(1, num_bytes // 2), dtype=torch.uint8, device=device)
    place = torch.empty_like(source)
    return lambda: place.copy_(source)


def warm_up(call: Call, device: torch.device) -> int:
    """How many calls fill a measurement."""
    timed(call, 3, device)
    return max(1, round(SECONDS / timed(call, 3, device)))


def timed(call: Call, times: int, device: torch.device) -> float:
    """Seconds of one of `times` calls."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / times
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def result_table(found: list[dict[str, Any]]) -> str:
    """One line per case."""
    lines = []
    for one in found:
        ms = one["ms"]
        ours = ms[OURS]
        against = [
            spread(ratios(ms[name], ours), ".2f") if name in ms else ""
            for name in (REFERENCE, PEER)
        ]
        rate = one["bytes"] / statistics.median(ours) / 1e6
        lines.append(
            [
                one["op"],
                one["size"],
                *(spread(ms[name], ".3f") if name in ms else "" for name in (OURS, REFERENCE)),
                against[0],
                f"{one['peer']}: {spread(ms[PEER], '.3f')}" if PEER in ms else "",
                against[1],
                spread(ms[FLOOR], ".3f"),
                spread(ratios(ours, ms[FLOOR]), ".2f"),
                f"{rate:.1f}" if one["bytes"] else "",
            ]
        )
    columns = ["op", "size", "lorakit ms", "reference ms", "faster by", "peer ms", "faster by"]
    return table([*columns, "floor ms", "times the floor", "GB/s"], lines)


def hardware(device: torch.device) -> str:
    """The device, and the threads of the CPU."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"the CPU, {torch.get_num_threads()} thread(s)"


if __name__ == "__main__":
    main()
