"""Checkpoints: what is read is what was written, or the newest older one that is whole."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorakit import files
from lorakit.errors import CheckpointError, RunError
from lorakit.train.checkpoint import read_checkpoint
from lorakit.train.checkpoint_store import CheckpointStore
from lorakit.train.lock import run_lock

IDENTITY = {"base": {"config": "abc"}, "seed": 42}


def _tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(step)
    flat = torch.randn(20, generator=generator)
    return {
        "parameters": {"a.weight": flat[:6].view(2, 3), "b": flat[6:7]},
        "optimizer": {"exp_avg.b": flat[7:].bfloat16(), "count": torch.tensor([step])},
    }


def _save(
    folder: Path, *steps: int, keep: int = 10, identity: dict | None = None
) -> CheckpointStore:
    store = CheckpointStore(folder, identity or IDENTITY, keep=keep)
    store.open()
    for step in steps:
        store.save(step, _tensors(step), {"step": step, "history": [0.1, 1e-30]})
    return store


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    found = _save(tmp_path, 3, 7).newest()
    assert (found.step, found.path.name, found.identity) == (7, "step-7", IDENTITY)
    assert found.state == {"step": 7, "history": [0.1, 1e-30]}
    for group, tensors in _tensors(7).items():
        assert found.tensors[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[group][name], tensor)
            assert found.tensors[group][name].dtype == tensor.dtype


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        path = _save(tmp_path / name, 3).path(3)
        contents.append({p.name: p.read_bytes() for p in path.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        "parameters.safetensors",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
    }


FILES = ("parameters.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zero_block(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _take_another_step_s(path: Path) -> None:
    shutil.copy(path.parent.parent / "step-3" / path.name, path)


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


MUTATIONS: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "halved": _halve,
    "emptied": _empty,
    "zeroed": _zero_block,
    "swapped": _take_another_step_s,
    "lengthened": _lengthen,
    "deleted": Path.unlink,
}


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    _save(folder, 3, 7)
    return folder


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path,
    two_checkpoints: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    mutation: str,
) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "copy")
    store = CheckpointStore(tmp_path / "copy", IDENTITY, keep=10)
    MUTATIONS[mutation](store.path(7) / name)
    with caplog.at_level(logging.WARNING):
        assert store.newest().step == 3
    assert name in caplog.text and "step-7" in caplog.text
    # Set aside, so that its step can be saved again.
    assert store.steps() == [3]


def test_a_damaged_step_is_saved_again(tmp_path: Path) -> None:
    store = _save(tmp_path, 3, 7)
    _truncate(store.path(7) / "state.json")
    assert store.newest().step == 3
    store.save(7, _tensors(7), {})
    assert store.newest().step == 7


def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    path = _save(tmp_path, 7).path(7)
    generator = random.Random(0)
    for name in FILES:
        content = (path / name).read_bytes()
        for _ in range(75):
            place, bit = generator.randrange(len(content)), generator.randrange(8)
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            (path / name).write_bytes(flipped)
            with pytest.raises(CheckpointError, match=name):
                read_checkpoint(path)
        (path / name).write_bytes(content)
    assert read_checkpoint(path).step == 7


@pytest.mark.parametrize("extra", ["more.safetensors", ".hidden"])
def test_an_extra_file_is_detected(tmp_path: Path, extra: str) -> None:
    store = _save(tmp_path, 3, 7)
    (store.path(7) / extra).write_bytes(b"")
    assert store.newest().step == 3


def test_a_renamed_checkpoint_is_detected(tmp_path: Path) -> None:
    store = _save(tmp_path, 3)
    shutil.copytree(store.path(3), store.path(5))
    assert store.newest().step == 3


def test_no_whole_checkpoint_names_every_fault(tmp_path: Path) -> None:
    store = _save(tmp_path, 3, 7)
    _truncate(store.path(3) / "state.json")
    _truncate(store.path(7) / "parameters.safetensors")
    with pytest.raises(CheckpointError, match=r"parameters\.safetensors.*state\.json"):
        store.newest()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        _save(tmp_path / "other").newest()


def test_another_run_s_checkpoint_is_refused_naming_every_difference(tmp_path: Path) -> None:
    _save(tmp_path, 3)
    other = _save(tmp_path, identity={"base": {"config": "xyz"}, "seed": 43, "new": True})
    with pytest.raises(CheckpointError) as caught:
        other.newest()
    for difference in ("base.config", "'abc'", "'xyz'", "seed", "42", "43", "new", "None"):
        assert difference in str(caught.value)


def test_an_unknown_format_version_is_said(tmp_path: Path) -> None:
    path = _save(tmp_path, 3).path(3)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 2}))
    with pytest.raises(CheckpointError, match="format version 2"):
        read_checkpoint(path)


def test_old_checkpoints_go_but_never_below_two_nor_the_source(tmp_path: Path) -> None:
    store = _save(tmp_path, 1, 2, 3, 4, keep=3)
    assert store.steps() == [2, 3, 4]
    store = _save(tmp_path, keep=1)
    _truncate(store.path(4) / "state.json")
    assert store.newest().step == 3
    for step in (4, 5, 6):
        store.save(step, _tensors(step), {})
    assert store.steps() == [3, 5, 6]


def test_a_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    store = _save(tmp_path, 3)
    with pytest.raises(CheckpointError, match="exists already"):
        store.save(3, _tensors(4), {})
    assert read_checkpoint(store.path(3)).state["step"] == 3


def test_one_of_the_same_step_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second signal, a kill or a full disk may come at any moment of a save."""
    folder, killed = tmp_path / "run", tmp_path / "killed"
    store = _save(folder, 3)
    plain = files.move_into_place

    def interrupted(staging: Path, final: Path) -> None:
        shutil.copytree(folder, killed)  # what a kill leaves
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "move_into_place", interrupted)
    with pytest.raises(RunError, match=r"untouched \(steps: 3\)"):
        store.save(3, _tensors(4), {"kept": False}, anew=True)
    monkeypatch.setattr(files, "move_into_place", plain)
    for left in (store, _save(killed)):
        assert left.newest().state["step"] == 3
        left.save(3, _tensors(4), {"kept": True}, anew=True)
        assert left.newest().state == {"kept": True}
    for one in (folder, killed):
        assert sorted(p.name for p in one.iterdir()) == [".reserve", "step-3"]


def test_one_that_was_replaced_is_gone_at_the_next_start(tmp_path: Path) -> None:
    """Where the process ended between the last rename and the removal."""
    store = _save(tmp_path, 3)
    shutil.copytree(store.path(3), tmp_path / ".aside-step-3")
    assert _save(tmp_path).newest().step == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [".reserve", "step-3"]


def test_unfinished_folders_go_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-9-abc").mkdir(parents=True)
    (tmp_path / ".tmp-step-9-abc" / "parameters.safetensors").write_bytes(b"half")
    store = _save(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".reserve", "step-3"]
    assert store.newest().step == 3


def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    store = CheckpointStore(small_disk, IDENTITY, keep=999)
    store.open()
    big = {"parameters": {"a": torch.zeros(6000)}}
    saved = 0
    with pytest.raises(RunError, match=r"No space left.*Earlier checkpoints are untouched") as full:
        while True:
            store.save(saved + 1, big, {})
            saved += 1
    assert saved >= 4 and full.value.exit_code == 1
    assert store.steps() == list(range(1, saved + 1))
    assert store.newest().step == saved
    # The reserve was given up for the last ones, and nothing unfinished is left.
    assert not list(small_disk.glob(".*"))


def test_the_disk_filling_up_during_the_write_loses_nothing(tmp_path: Path) -> None:
    # A limit on file sizes fails the write itself, after the check for free space has passed.
    code = f"""
import resource, torch
from pathlib import Path
from lorakit.errors import RunError
from lorakit.train.checkpoint_store import CheckpointStore
store = CheckpointStore(Path({str(tmp_path)!r}), {{}}, keep=3)
store.open()
store.save(1, {{"parameters": {{"a": torch.zeros(10)}}}}, {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    store.save(2, {{"parameters": {{"a": torch.zeros(2000)}}}}, {{}})
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "step 2 could not be written" in done.stdout and os.strerror(errno.EFBIG) in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == [".reserve", "step-1"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_two_processes_cannot_share_a_run(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from lorakit.train.lock import run_lock
with run_lock(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    owner = rf"in use by another process \(pid {holder.pid}\)"
    with pytest.raises(RunError, match=owner), run_lock(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with run_lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
