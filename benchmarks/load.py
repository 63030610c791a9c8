"""Loading to NF4, and the speed of quantizing and dequantizing: lorakit against bitsandbytes.

    python benchmarks/load.py
    python benchmarks/load.py --shape tiny --pairs 1 --matrix 512 512

The model: random weights of a 0.5 B model's shape, saved once in bfloat16; loaded with double
quantization, 64 weights a block, dense tensors as float32. Every load is a process of its own, by
turns. Timed is the load alone, without imports, from files in the system's cache. The peak is the
process's resident memory, over that of an interpreter that has imported torch and transformers.

The kernels: one float32 matrix, quantized and dequantized a few times, each library in processes of
its own, by turns. Beside them, in the same process, a copy of the dense bytes from one place to
another: as fast as memory lets anything write a dense weight.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from contest import (
    MIB,
    Memory,
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

OURS, PEER = "lorakit", "bitsandbytes"
OPERATIONS = ("quantize", "dequantize", "copy")
BLOCK_SIZE = 64


def main() -> None:
    """Measure both and write the section."""
    if did_the_task(answer):
        return
    parser = contest_parser(__doc__)
    parser.add_argument("--shape", default="qwen2.5-0.5b", help="as in workload.py")
    parser.add_argument("--matrix", type=int, nargs=2, default=[4096, 4096], help="rows, columns")
    parser.add_argument("--repeats", type=int, default=7, help="of each operation on the matrix")
    parser.add_argument("--workdir", type=Path, help="where models are kept for the next time")
    options = parser.parse_args()
    with work_folder(options.workdir) as folder:
        contest(options, folder)


def contest(options: argparse.Namespace, workdir: Path) -> None:
    """Measure, print and write."""
    task = {
        "shape": options.shape,
        "model": str(workdir / f"{options.shape}-bfloat16"),
        "matrix": options.matrix,
        "repeats": options.repeats,
    }

    def turns(do: str) -> dict[str, list[dict[str, Any]]]:
        def measure(name: str) -> dict[str, Any]:
            return in_a_process(__file__, task | {"do": do, "with": name}, options.threads)

        return by_turns([OURS, PEER], options.pairs, measure)

    in_a_process(__file__, task | {"do": "save", "with": ""}, options.threads)
    loads, kernels = turns("load"), turns("kernels")
    rows, columns = options.matrix
    text = f"""{conditions()}

{options.shape}: random weights, bfloat16 files, to NF4 with double quantization; medians
(lowest - highest) of {options.pairs} loads, each in its own process, by turns; compared pair by
pair. The peak is over the interpreter with torch and transformers imported.

{load_table(loads)}

A float32 matrix of {rows} x {columns}, {options.repeats} times each in {options.pairs} processes.

{kernel_table(kernels)}
"""
    print(text)
    path = results_file("load")
    write_section(f"Loading to NF4, {options.shape}", text, path)
    content = {
        "conditions": conditions(),
        "task": without_places(task),
        "loads": loads,
        "kernels": kernels,
    }
    path.with_name(f"{path.stem}_{options.shape}.json").write_text(
        json.dumps(content, indent=1) + "\n", "utf-8"
    )


def load_table(loads: dict[str, list[dict[str, Any]]]) -> str:
    """One line per library."""
    packed = loads[OURS][0]["packed_bytes"]
    lines = []
    for name, ones in loads.items():
        seconds = [one["seconds"] for one in ones]
        peaks = [one["peak_bytes"] for one in ones]
        ours = loads[OURS]
        against = ["", ""]
        if name != OURS:
            against = [
                spread(ratios(seconds, [one["seconds"] for one in ours]), ".2f"),
                spread(ratios([one["peak_bytes"] for one in ours], peaks), ".2f"),
            ]
        lines.append(
            [
                name,
                spread(seconds, ".2f"),
                spread([one["cpu_seconds"] for one in ones], ".2f"),
                spread([peak / MIB for peak in peaks], ",.0f"),
                spread([(peak - packed) / MIB for peak in peaks], ",.0f"),
                *against,
            ]
        )
    columns = ["library", "seconds", "CPU s", "peak MiB"]
    columns += [f"peak over the packed {packed / MIB:,.0f} MiB"]
    columns += ["lorakit is faster by", "lorakit takes of its peak"]
    return table(columns, lines)


def kernel_table(kernels: dict[str, list[dict[str, Any]]]) -> str:
    """One line per operation; times are of one matrix."""
    lines = []
    for operation in OPERATIONS[:2]:
        ours, theirs, copies = (
            [one[name] for one in kernels[library]]
            for library, name in ((OURS, operation), (PEER, operation), (OURS, "copy"))
        )
        lines.append(
            [
                operation,
                spread([1e3 * one for one in ours], ".1f"),
                spread([1e3 * one for one in theirs], ".1f"),
                spread(ratios(theirs, ours), ".2f"),
                spread([1e3 * one for one in copies], ".1f"),
                spread(ratios(ours, copies), ".2f"),
            ]
        )
    columns = ["operation", "lorakit ms", "bitsandbytes ms", "lorakit is faster by"]
    return table([*columns, "copy ms", "times of a copy"], lines)


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task, in the process that was started for it."""
    memory = Memory()
    bare = memory.now()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = Path(task["model"])
    if task["do"] == "save":
        from workload import save_model

        save_model(task["shape"], model, torch.bfloat16)
        return {}
    if task["do"] == "kernels":
        return kernels_of(task["with"], task["matrix"], task["repeats"])
    load = {OURS: loader_of_ours, PEER: loader_of_the_peer}[task["with"]](model)
    memory.forget()  # imports have peaks of their own
    started, cpu_started = time.perf_counter(), time.process_time()
    loaded = load()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": memory.peak() - bare,
        "held_bytes": memory.now() - bare,
        "packed_bytes": sum(tensor.nbytes for tensor in (*loaded.parameters(), *loaded.buffers())),
    }


def loader_of_ours(model: Path) -> Callable[[], torch.nn.Module]:
    """lorakit's load, imported and ready."""
    import sft_ours

    return lambda: sft_ours.load(model, "nf4")


def loader_of_the_peer(model: Path) -> Callable[[], torch.nn.Module]:
    """transformers' load with bitsandbytes, imported and ready."""
    import bitsandbytes  # noqa: F401
    import peer_base

    return lambda: peer_base.load(model, "nf4")


def kernels_of(library: str, shape: list[int], repeats: int) -> dict[str, float]:
    """Median seconds of quantizing, dequantizing and copying one matrix."""
    dense = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    quantize, dequantize = {OURS: kernels_of_ours, PEER: kernels_of_the_peer}[library]()
    packed = quantize(dense)
    place = torch.empty_like(dense)
    calls: dict[str, Callable[[], object]] = {
        "quantize": lambda: quantize(dense),
        "dequantize": lambda: dequantize(packed),
        "copy": lambda: place.copy_(dense),
    }
    seconds: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    for _ in range(repeats + 1):
        for name in OPERATIONS:
            started = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - started)
    # The first of each warms up.
    return {name: statistics.median(measured[1:]) for name, measured in seconds.items()}


def kernels_of_ours() -> tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]:
    """What lorakit packs weights with, and unpacks them."""
    from lorakit.base.storages import nf4

    def quantize(dense: torch.Tensor) -> Any:
        return nf4.quantize(dense, block_size=BLOCK_SIZE, double_quantization=True)

    return quantize, lambda packed: packed.dequantize(torch.float32)


def kernels_of_the_peer() -> tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]:
    """bitsandbytes' functions of the same meaning."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def quantize(dense: torch.Tensor) -> Any:
        return quantize_4bit(
            dense, blocksize=BLOCK_SIZE, compress_statistics=True, quant_type="nf4"
        )

    return quantize, lambda packed: dequantize_4bit(*packed)


if __name__ == "__main__":
    main()
