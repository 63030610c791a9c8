"""`metrics.jsonl`: one line per logged step, flushed as it is written, cut back on resume."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.errors import CheckpointError, RunError
from lorakit.files import write_atomically

NAME = "metrics.jsonl"


@dataclass(frozen=True)
class MetricsLine:
    """What is known at a logged step.

    Attributes:
        step: optimizer steps done.
        epoch: epochs done, with a fraction.
        loss: mean over the trained tokens (by loss weight) of all steps since the line before.
        learning_rate, grad_norm: of this step; the norm is that before clipping.
        tokens, trained_tokens: seen since the run began, padding not counted.
        tokens_per_second: since the line before, of training steps.
        peak_bytes: highest so far, see `memory.peak_bytes`.
        seconds: spent in training steps, and by a policy in rollouts and their rewards too, since
            the run began, earlier processes included; saving and validation are left out. A
            policy's line says beside it what each took since the line before: `seconds/rollout`,
            `seconds/reward`, `seconds/training`.
        validation_loss: when validation ran after this step.
    """

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    trained_tokens: int
    tokens_per_second: float
    peak_bytes: int
    seconds: float
    validation_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The line's keys and values; `validation_loss` only where there is one."""
        return {name: value for name, value in vars(self).items() if value is not None}


class MetricsFile:
    """RUN/metrics.jsonl, open for appending.

    Args:
        folder: the run folder.
        last_step: lines after it are removed: the run goes on from there. 0: all are.
        name: of the file; every line has a `step`.

    Raises:
        CheckpointError: a line of a step up to `last_step` is damaged.
    """

    def __init__(self, folder: Path, *, last_step: int, name: str = NAME) -> None:
        path = folder / name
        self.lines = _lines_up_to(path, last_step)
        content = "".join(f"{json.dumps(line)}\n" for line in self.lines).encode()
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)
        self._path = path
        # Unbuffered: after a failed write nothing is left that would be written later.
        self._file = path.open("ab", buffering=0)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line and hand it to the operating system.

        Raises:
            RunError: the disk is full or refuses; what was written of the line goes on resume.
        """
        content = (json.dumps(line, allow_nan=False) + "\n").encode()
        try:
            if self._file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RunError(
                f"{self._path} could not be written: {error.strerror}. Earlier checkpoints are "
                "untouched; make room, then resume."
            ) from error

    def sync(self) -> None:
        """Force the lines to the disk: before a checkpoint that counts on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file, up to the first that a crash cut off or damaged."""
    return _read(path)[0]


def _lines_up_to(path: Path, last_step: int) -> list[dict[str, Any]]:
    """The lines of the steps up to `last_step`; damage behind them is cut off with the rest."""
    lines, damaged = _read(path)
    kept = [line for line in lines if line["step"] <= last_step]
    # The line of a later step, or of `last_step` itself, shows that nothing before it is missing.
    if damaged is not None and last_step > 0 and (not lines or lines[-1]["step"] < last_step):
        after = f"step {lines[-1]['step']}" if lines else "the start"
        raise CheckpointError(
            f"{path}: line {damaged}, the one after {after}, is damaged, and the checkpoint of "
            f"step {last_step} counts on it. Restore the file from a backup, or delete it from "
            "that line on: the run goes on without those lines."
        )
    return kept


def _read(path: Path) -> tuple[list[dict[str, Any]], int | None]:
    """Lines, and the number of the first damaged one; a last line without an end is no damage."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines, None
    # Everything after the last line break is unfinished.
    for number, content in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            line = json.loads(content)
        except ValueError:
            return lines, number
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            return lines, number
        lines.append(line)
    return lines, None
