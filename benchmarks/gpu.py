"""The whole GPU programme: kernels, training at the Llama-3.1-8B shape, and the peers.

    python benchmarks/gpu.py --minutes 9      again and again, until nothing is left
    python benchmarks/gpu.py --dry-run        tiny shapes on the CPU, into a temporary folder
    python benchmarks/gpu.py --list

It is a list of pieces. Each runs in a process of its own, and its result is written at once, as
JSON in `benchmarks/results/gpu/` (or `--results`); a piece that has a result is not run again, one
that failed only with `--retry`. Before a piece that would not fit into `--minutes` it stops, and
one that runs past them is ended and has failed. Peers whose packages are missing are left out. The
exit code is 1 when a piece has failed.

Models have random weights, made on the device (`gpu_model.py`). Steps and ceiling are lorakit's own
loop and the replay of its products (`gpu_training.py`); peers are in `gpu_peers.py`. A dry run
takes the same paths on the CPU, in this process (kernels in Triton's interpreter), and what it
writes is marked as dry.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from contest import RESULTS
from gpu_pieces import Piece, all_pieces, run
from gpu_tables import result_table
from page import command, machine

FOLDER = RESULTS / "gpu"
SUMMARY = "summary.md"
ERROR_LENGTH = 4000  # characters of an error that are kept


def main(words: Sequence[str] | None = None) -> int:
    """Run what is left, print and write the table; the exit code."""
    options = parsed(words)
    # Rounds are for measuring: a dry run needs one.
    every = all_pieces(rounds=1) if options.dry_run else all_pieces()
    chosen = [piece for piece in every if fnmatch(piece.name, options.only)]
    if options.one is not None:
        piece = next(piece for piece in every if piece.name == options.one)
        # Only here: the process that hands out the pieces must not hold the device.
        result = run(piece, dry_run=False)
        print(json.dumps(result | {"device": torch.cuda.get_device_name()}))
        return 0
    if options.list:
        for piece in chosen:
            print(f"{piece.name}, about {piece.seconds} s")
        return 0
    if not options.dry_run and not torch.cuda.is_available():
        print("no CUDA device; possible here: --dry-run", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="lorakit-gpu-") as temporary:
        folder = options.results or (Path(temporary) if options.dry_run else FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        left = run_all(chosen, folder, options)
        return told(chosen, folder, left)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--results", type=Path, help="folder of the results")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="pieces, such as 'qlora-*'")
    parser.add_argument("--retry", action="store_true", help="run those again that failed")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--list", action="store_true", help="name the pieces, run none")
    parser.add_argument("--one", metavar="PIECE", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def run_all(pieces: Sequence[Piece], folder: Path, options: argparse.Namespace) -> list[str]:
    """Run the pieces that have no result; the names of those that time did not allow.

    Raises:
        ValueError: the folder's results are dry ones and these are not, or the other way round.
    """
    ends = time.monotonic() + 60 * options.minutes
    left: list[str] = []
    for piece in pieces:
        path = folder / f"{piece.name}.json"
        found = read(path)
        if found is not None and found["dry_run"] != options.dry_run:
            raise ValueError(f"{path} has dry_run: {found['dry_run']}; choose another --results")
        if found is not None and not (options.retry and "error" in found):
            continue
        if piece.missing():
            print(f"{piece.name}: left out without {', '.join(piece.missing())}", file=sys.stderr)
            continue
        seconds = ends - time.monotonic()
        # A piece after one that does not fit may be shorter, but order is by importance.
        if left or (seconds < piece.seconds and not options.dry_run):
            left.append(piece.name)
            continue
        write(path, measured(piece, seconds, dry_run=options.dry_run))
    return left


def measured(piece: Piece, limit: float, *, dry_run: bool) -> dict[str, Any]:
    """The result of a piece, or its error, with what it was run on."""
    started = time.monotonic()
    try:
        result = run(piece, dry_run=True) if dry_run else in_a_child(piece, limit)
    # One piece that fails must not cost the others their time on the device.
    except Exception:  # noqa: BLE001
        result = {"error": traceback.format_exc()[-ERROR_LENGTH:]}
    took = time.monotonic() - started
    print(
        f"{piece.name}: {'failed' if 'error' in result else 'done'}, {took:.0f} s", file=sys.stderr
    )
    facts = {"name": piece.name, "dry_run": dry_run, "took_seconds": took, "machine": machine()}
    return facts | {"command": command()} | result


def in_a_child(piece: Piece, limit: float) -> dict[str, Any]:
    """Run the piece in a new interpreter.

    Raises:
        RuntimeError: it failed; with the end of what it said.
        subprocess.TimeoutExpired: it ran past `limit` seconds.
    """
    words = [sys.executable, str(Path(__file__).resolve()), "--one", piece.name]
    with subprocess.Popen(
        words,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            output, errors = child.communicate(timeout=limit)
        except BaseException:
            # With its own children, which would go on using the device.
            os.killpg(child.pid, signal.SIGKILL)
            raise
    if child.returncode != 0:
        raise RuntimeError(f"exit code {child.returncode}\n{errors[-ERROR_LENGTH:]}")
    return json.loads(output.splitlines()[-1])


def told(pieces: Sequence[Piece], folder: Path, left: Sequence[str]) -> int:
    """Print the table and write it beside the results; 1 when one of the pieces failed."""
    found = [one for piece in pieces if (one := read(folder / f"{piece.name}.json")) is not None]
    every = [one for path in sorted(folder.glob("*.json")) if (one := read(path)) is not None]
    text = result_table(every)
    (folder / SUMMARY).write_text(text, "utf-8")
    print(text)
    if left:
        print(f"left for the next call: {', '.join(left)}")
    return int(any("error" in one for one in found))


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def write(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all: a result that exists counts as done."""
    staged = path.with_suffix(".part")
    staged.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    staged.replace(path)


if __name__ == "__main__":
    sys.exit(main())
