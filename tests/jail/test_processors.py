"""Processors are counted as far as a quota pays for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorakit.jail.cgroups import Cgroups
from lorakit.jail.processors import available_processors

ALL = len(os.sched_getaffinity(0))
V1 = "5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n"


@pytest.mark.parametrize(
    ("own", "files", "count"),
    [
        ("0::/\n", {}, ALL),
        ("0::/\n", {"cpu.max": "max 100000\n"}, ALL),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),  # a tenth of one is one
        ("0::/\n", {"cpu.max": "900000 100\n"}, ALL),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100\n", "a/cpu.max": "100 100\n"}, 1),
        ("0::/not/here\n", {"cpu.max": "100 100\n"}, 1),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100"}, ALL),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "100", "cpu,cpuacct/cpu.cfs_period_us": "100"}, 1),
        (None, {}, ALL),
    ],
)
def test_processors(own: str | None, files: dict, count: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    if own is not None:
        (tmp_path / "own").write_text(own)
    groups = Cgroups(tmp_path / "own", tmp_path / "groups")
    assert available_processors(cgroups=groups) == count
