"""Writing files so that a crash leaves the old or the new version, never half of one."""

from __future__ import annotations

import glob
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lorakit.errors import InputError

STAGING_PREFIX = ".tmp-"


def cache_folder() -> Path:
    """Where what can be made again is kept between runs: $LORAKIT_CACHE, else a folder of the
    user's cache. Nothing in it is needed: it may be deleted at any time."""
    own = os.environ.get("LORAKIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorakit"


def fsync_path(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, force it to disk and rename it into place."""
    remove_stale(path)
    staging = path.with_name(f"{STAGING_PREFIX}{path.name}-{uuid.uuid4().hex}")
    try:
        with staging.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def remove_stale(final: Path) -> None:
    """Remove what killed writers of `final` left beside it. One process writes a path at a time."""
    for stale in final.parent.glob(f"{STAGING_PREFIX}{glob.escape(final.name)}-*"):
        if stale.is_dir():
            shutil.rmtree(stale)
        else:
            stale.unlink()


def write_json(path: Path, value: object) -> None:
    """`write_atomically` for JSON, keys sorted, a newline at the end; NaN and infinity refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def new_folder(output: Path) -> Path:
    """Where a folder is to be written, links followed; nothing is made or changed.

    Raises:
        InputError: something is there that is not an empty folder, or no folder can be put there
            by a rename.
    """
    final = output.expanduser().resolve()
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise InputError(
            f"{output} exists and is not an empty folder; nothing is ever overwritten. Choose "
            "another output, or remove it."
        )
    parent = next(place for place in final.parents if place.exists())
    fault = None
    if not parent.is_dir():
        fault = f"{parent} is a file, not a folder"
    elif os.path.ismount(final):
        fault = "it is a mount point, which nothing can take the place of"
    elif final == Path.cwd():
        fault = "it is the folder you are in, whose place a new one takes when it is complete"
    elif not os.access(parent, os.W_OK | os.X_OK):
        fault = f"{parent} may not be written to"
    if fault is not None:
        raise InputError(
            f"{output} cannot be written: {fault}; possible: a new folder in one that may be "
            "written to. Choose another output."
        )
    return final


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """A folder that becomes `final` by one rename when the block succeeds, and vanishes otherwise.

    Raises:
        OSError: `final` exists and is not an empty folder, or the disk refuses.
    """
    final = final.resolve()  # a link stays, and its folder is replaced
    with staging_folder(final) as staging:
        yield staging
        move_into_place(staging, final)


@contextmanager
def staging_folder(beside: Path) -> Iterator[Path]:
    """An empty folder beside `beside`, which need not exist. It is removed when the block ends,
    unless it was moved; what killed writers of the same name left is removed first."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(beside)
    staging = beside.with_name(f"{STAGING_PREFIX}{beside.name}-{uuid.uuid4().hex}")
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def move_into_place(staging: Path, final: Path) -> None:
    """Force a folder to the disk and rename it to `final` in the same parent folder.

    Raises:
        OSError: `final` exists and is not an empty folder, or the disk refuses.
    """
    for path in sorted(staging.rglob("*")):
        fsync_path(path)
    fsync_path(staging)
    os.rename(staging, final)
    fsync_path(final.parent)


def strict_json(text: str) -> Any:
    """The value of a JSON text as the standard has it: no NaN or Infinity, no key twice.

    Raises:
        ValueError: it is none, in words; of broken syntax a JSONDecodeError, which says where.
        RecursionError: it is nested deeper than any program reads.
    """
    return _STRICT.decode(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write a number or null")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key in values if counts[key] > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object; keep one of them")
    return values


# Made once: files of a million lines are read by it.
_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)
