"""Checkpoints that a crash, a full disk or a flipped bit cannot turn into a wrong resume.

    CHECKPOINTS/step-N/    see `checkpoint.py`
    CHECKPOINTS/.reserve   space set aside, given up when the disk is nearly full
    CHECKPOINTS/.tmp-*     unfinished or doomed; removed at the next start
    CHECKPOINTS/.aside-*   one that another of its step was about to replace; put back at the next
                           start if it was not

A checkpoint is written into a staging folder, every file forced to disk, and becomes visible by one
rename to a name that does not exist; only then are old ones removed. Readers check every byte
against the manifest and fall back to the newest whole one.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorakit.errors import CheckpointError, RunError
from lorakit.files import STAGING_PREFIX, staged_folder
from lorakit.train.checkpoint import (
    PREFIX,
    Checkpoint,
    Tensors,
    checkpoint_files,
    read_checkpoint,
    write_checkpoint,
)

MIN_KEPT = 2  # the last one may be the damaged one

_RESERVE = ".reserve"
_ASIDE = ".aside-"
_RESERVE_BLOCK = 16 << 10

log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: RUN/checkpoints; made when needed.
        identity: what makes this run this run, JSON values; a checkpoint of another is refused.
        keep: how many checkpoints stay, at least 2.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, keep: int) -> None:
        self._folder = folder
        self._identity = json.loads(json.dumps(identity, allow_nan=False))
        self._keep = max(keep, MIN_KEPT)
        self._source: Path | None = None

    def open(self) -> None:
        """Make the folder, and put in order what an earlier process left unfinished.

        Only for the process that holds the run's lock.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._end_replacing()
        for leftover in self._folder.glob(f"{STAGING_PREFIX}*"):
            log.info("removing unfinished %s", leftover)
            shutil.rmtree(leftover)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, whole or not, ascending."""
        names = (path.name.removeprefix(PREFIX) for path in self._folder.glob(f"{PREFIX}*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def path(self, step: int) -> Path:
        """The folder of the checkpoint after `step` steps."""
        return self._folder / f"{PREFIX}{step}"

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensors],
        state: Mapping[str, Any],
        *,
        anew: bool = False,
    ) -> Path:
        """Write a checkpoint, then remove old ones.

        Args:
            step: optimizer steps done; no checkpoint of it may exist.
            anew: one may, and this one takes its place once it is written.
            tensors: {group: {name: tensor on any device}}.
            state: JSON values.

        Raises:
            RunError: the disk is full or refuses. No older checkpoint was touched.
        """
        files = checkpoint_files(tensors, state)
        num_bytes = sum(map(len, files.values()))
        try:
            self._make_room(num_bytes)
            self._write(step, files, anew)
        except OSError as error:
            raise self._not_written(step, num_bytes, error) from error
        try:
            self._end_replacing()
            self._prune()
            self._fill_reserve(num_bytes)
        except OSError as error:
            # The checkpoint is safe; what is left over costs only space.
            log.warning("tidying up %s failed: %s", self._folder, error)
        return self.path(step)

    def newest(self) -> Checkpoint:
        """The newest whole checkpoint of this run; it is kept from now on.

        Damaged newer ones are reported, and set aside so that their steps can be saved again.

        Raises:
            CheckpointError: none is whole, or it belongs to another run.
        """
        damaged: dict[Path, str] = {}
        for step in reversed(self.steps()):
            try:
                found = read_checkpoint(self.path(step))
            except CheckpointError as error:
                log.warning("%s Falling back to the one before.", error)
                damaged[self.path(step)] = str(error)
                continue
            self._check_identity(found)
            for path in damaged:
                path.rename(path.with_name(f"damaged-{path.name}-{uuid.uuid4().hex[:8]}"))
            self._source = found.path
            return found
        if damaged:
            raise CheckpointError(
                f"{self._folder} has no whole checkpoint: {' '.join(damaged.values())} Start the "
                "run again in another folder, or restore one of these from a backup."
            )
        raise CheckpointError(f"{self._folder} has no checkpoint. Start the run without resuming.")

    def _write(self, step: int, files: Mapping[str, bytes], anew: bool) -> None:
        final = self.path(step)
        if final.exists() and not anew:
            raise CheckpointError(
                f"{final} exists already; a checkpoint is never overwritten. Resume the run, or "
                "choose another output folder."
            )
        try:
            with staged_folder(final) as staging:
                write_checkpoint(staging, step, files, self._identity)
                if final.exists():
                    final.rename(self._folder / f"{_ASIDE}{final.name}")
        except BaseException:
            self._end_replacing()
            raise

    def _end_replacing(self) -> None:
        """Remove checkpoints that were replaced; those that were not are where they were again."""
        for aside in list(self._folder.glob(f"{_ASIDE}*")):
            final = self._folder / aside.name.removeprefix(_ASIDE)
            if final.exists():
                self._remove(aside)
            else:
                aside.rename(final)

    def _prune(self) -> None:
        surplus = [self.path(step) for step in self.steps()[: -self._keep]]
        for path in surplus:
            if path != self._source:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        # Renamed first: a half-removed folder must not look like a damaged checkpoint.
        doomed = path.with_name(f"{STAGING_PREFIX}{path.name}-{uuid.uuid4().hex}")
        path.rename(doomed)
        shutil.rmtree(doomed)

    def _make_room(self, num_bytes: int) -> None:
        if shutil.disk_usage(self._folder).free >= 2 * num_bytes:
            return
        reserve = self._folder / _RESERVE
        if reserve.exists():
            log.warning("the disk of %s is nearly full: giving up the reserve", self._folder)
            reserve.unlink()
        if shutil.disk_usage(self._folder).free < 2 * num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _fill_reserve(self, num_bytes: int) -> None:
        """Set aside what the next checkpoint needs, while there is plenty."""
        reserve = self._folder / _RESERVE
        # Whole blocks: a few digits more in state.json must not make it grow.
        wanted = -(-2 * num_bytes // _RESERVE_BLOCK) * _RESERVE_BLOCK
        missing = wanted - (reserve.stat().st_size if reserve.exists() else 0)
        if missing <= 0 or shutil.disk_usage(self._folder).free < missing + 2 * num_bytes:
            return
        with reserve.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, wanted)

    def _not_written(self, step: int, num_bytes: int, error: OSError) -> RunError:
        free = shutil.disk_usage(self._folder).free
        kept = ", ".join(str(kept) for kept in self.steps()) or "none"
        return RunError(
            f"the checkpoint of step {step} could not be written to {self._folder}: "
            f"{error.strerror}; it takes {num_bytes} bytes and room for {2 * num_bytes} must be "
            f"free, {free} are. Earlier checkpoints are untouched (steps: {kept}). Make room, then "
            "resume."
        )

    def _check_identity(self, found: Checkpoint) -> None:
        differences = [
            f"{key}: the checkpoint has {theirs!r}, this run has {ours!r}"
            for key, theirs, ours in _differences(found.identity, self._identity)
        ]
        if differences:
            raise CheckpointError(
                f"{found.path} belongs to another run. {'; '.join(differences)}. Resume with what "
                "the run was started with, or start a new run in another folder."
            )


def _differences(theirs: Any, ours: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, their value, our value) of every leaf that differs; None where there is none."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [
            difference
            for name in sorted(theirs.keys() | ours.keys())
            for difference in _differences(
                theirs.get(name), ours.get(name), f"{key}.{name}" if key else name
            )
        ]
    return [] if theirs == ours else [(key, theirs, ours)]
