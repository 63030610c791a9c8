"""The work pieces of `gpu.py`: names, estimates, and what each runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
VARIANTS = ("lora", "qlora", "qdora")
BASE = (4, 2048)
CHANGES: dict[str, tuple[int, int, str]] = {
    "1x2048": (1, 2048, "none"),
    "1x8192": (1, 8192, "none"),
    "selective": (*BASE, "selective"),
    "full": (*BASE, "full"),
}
ROUNDS = 3  # of the base cases and the peers, by turns
DRY_DIVISOR = 128  # rows of a dry run are so many times shorter
KERNELS, OPS, TRAINING, PEER = "kernels", "ops", "training", "peer"
PEER_PACKAGES = ("peft", "trl", "bitsandbytes", "accelerate")


@dataclass(frozen=True)
class Piece:
    """A piece of work that is done in a process of its own.

    Attributes:
        seconds: how long it may take, estimated for an H100 or faster, start included.
        kind: KERNELS, OPS, TRAINING or PEER.
        variant, num_rows, row_tokens, recompute: as in `gpu_training.Case`.
        replayed: whether the ceiling is measured too.
        setting: of a peer.
        packages: without one of them the piece is left out.
    """

    name: str
    seconds: int
    kind: str
    variant: str = ""
    num_rows: int = 0
    row_tokens: int = 0
    recompute: str = "none"
    replayed: bool = True
    setting: str = ""
    packages: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Packages that are not here."""
        return [name for name in self.packages if find_spec(name) is None]


def all_pieces(rounds: int = ROUNDS) -> list[Piece]:
    """What matters most comes first: a call may end anywhere."""
    pieces = [Piece("kernels", 120, KERNELS, packages=("pytest", "triton"))]
    pieces += _round(1)
    pieces.append(
        Piece(
            "qlora-1x2048-full-memory",
            50,
            TRAINING,
            "qlora",
            1,
            2048,
            recompute="full",
            replayed=False,
        )
    )
    for change, (num_rows, row_tokens, recompute) in CHANGES.items():
        pieces += [
            Piece(f"{variant}-{change}", 70, TRAINING, variant, num_rows, row_tokens, recompute)
            for variant in VARIANTS
        ]
    pieces.append(Piece("ops", 120, OPS, packages=PEER_PACKAGES))
    for number in range(2, rounds + 1):
        pieces += _round(number)
    return pieces


def _round(number: int) -> list[Piece]:
    pieces = []
    for variant in VARIANTS:
        name = f"{variant}-{BASE[0]}x{BASE[1]}"
        pieces.append(Piece(f"{name}-{number}", 70, TRAINING, variant, *BASE))
        pieces += [
            Piece(
                f"peft-{name}-{setting}-{number}",
                120,
                PEER,
                variant,
                *BASE,
                setting=setting,
                packages=PEER_PACKAGES[: 4 if variant != "lora" else 2],
            )
            for setting in ("kept", "default")
        ]
    return pieces


def run(piece: Piece, *, dry_run: bool) -> dict[str, Any]:
    """Do it in this process.

    Raises:
        Exception: whatever went wrong; nothing is caught here.
    """
    if piece.kind == KERNELS:
        return check_kernels(dry_run=dry_run)
    if piece.kind == OPS:
        return time_ops(dry_run=dry_run)
    # Imported here: the process that hands out the pieces must not hold a device.
    from gpu_training import Case, Place, measure

    case = Case(
        piece.variant,
        piece.num_rows,
        piece.row_tokens // DRY_DIVISOR if dry_run else piece.row_tokens,
        piece.recompute,  # type: ignore[arg-type]
    )
    place = Place.of(dry_run=dry_run)
    if piece.kind == TRAINING:
        return measure(case, place, replayed=piece.replayed)
    import gpu_peers

    return gpu_peers.measure(case, place, piece.setting)


def check_kernels(*, dry_run: bool) -> dict[str, Any]:
    """The kernels' own tests, on the device; in a dry run in Triton's interpreter.

    Raises:
        RuntimeError: a test failed, or none ran.
    """
    # It is chosen before the kernels are defined.
    interpreted = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""} if dry_run else {}
    files = sorted(map(str, (ROOT / "tests" / "kernels").glob("test_triton_*.py")))
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    last = _output(command, interpreted).splitlines()[-1]
    if "skipped" in last:
        raise RuntimeError(f"not all kernels were checked: {last}")
    return {"output": last}


def time_ops(*, dry_run: bool) -> dict[str, Any]:
    """`ops.py` on the device; its tables."""
    command = [sys.executable, str(ROOT / "benchmarks" / "ops.py")]
    return {"output": _output([*command, *(["--dry-run"] if dry_run else [])])}


def _output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout
