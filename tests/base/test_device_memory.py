"""Memory is what the tightest limit leaves, in containers of both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from lorakit.base.device_memory import free_bytes, host_memory, total_bytes
from lorakit.jail.cgroups import Cgroups
from lorakit.plan.target import Target
from lorakit.recipe import BaseSection

CPU = torch.device("cpu")
MIB = 1 << 20
# Less than any machine that runs these tests has.
LIMIT = 1 << 30
V1 = "4:memory:/docker/abc\n3:cpuset:/\n0::/\n"
V2 = "0::/pod/box\n"
NO_LIMIT_V1 = 9223372036854771712


def v1(folder: str, limit: int, used: int = 0, files: int = 0) -> dict[str, str]:
    half = files // 2
    stat = f"cache {files}\ntotal_active_file {half}\ntotal_inactive_file {files - half}\n"
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


def v2(folder: str, limit: int | str, used: int = 0, files: int = 0) -> dict[str, str]:
    half = files // 2
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 7\nactive_file {half}\ninactive_file {files - half}\n",
    }


def groups(folder: Path, own: str | None, files: dict[str, str]) -> Cgroups:
    for name, text in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text)
    if own is not None:
        (folder / "own").write_text(own)
    return Cgroups(folder / "own", folder / "groups")


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        (V2, v2("pod/box", LIMIT), LIMIT),
        (V2, v2("pod/box", LIMIT, used=300 * MIB), LIMIT - 300 * MIB),
        # Cached files go where somebody needs their room.
        (V2, v2("pod/box", LIMIT, used=300 * MIB, files=100 * MIB), LIMIT - 200 * MIB),
        (V2, v2("pod/box", LIMIT, used=2 * LIMIT), 0),
        # The tighter of two; and in a container its own path leads nowhere.
        (V2, v2("pod/box", "max") | v2("pod", LIMIT, used=MIB), LIMIT - MIB),
        (V2, v2("pod/box", LIMIT, used=MIB) | v2("pod", 2 * LIMIT, used=2 * LIMIT), 0),
        (V2, v2(".", LIMIT, used=MIB), LIMIT - MIB),
        (V1, v1("memory/docker/abc", LIMIT, used=300 * MIB, files=100 * MIB), LIMIT - 200 * MIB),
        (V1, v1("memory", LIMIT, used=MIB), LIMIT - MIB),
        (V1, v1("memory/docker/abc", NO_LIMIT_V1) | v1("memory/docker", LIMIT), LIMIT),
    ],
)
def test_a_limit_is_all_there_is(
    own: str, files: dict[str, str], free: int, tmp_path: Path
) -> None:
    found = groups(tmp_path, own, files)
    assert (total_bytes(CPU, cgroups=found), free_bytes(CPU, cgroups=found)) == (LIMIT, free)
    planned_for = Target.of(
        BaseSection(model="builtin", device="cpu"), None, is_idle=True, cgroups=found
    )
    assert planned_for.memory_bytes == LIMIT


@pytest.mark.parametrize(
    ("own", "files"),
    [
        (None, {}),
        (V2, {}),
        (V2, v2("pod/box", "max")),
        (V1, v1("memory/docker/abc", NO_LIMIT_V1)),
        ("4:cpu:/docker/abc\n", v1("cpu/docker/abc", LIMIT)),  # not a group of memory
        (V2, v2("pod/box", 1 << 60)),
    ],
)
def test_without_one_it_is_the_machine_s(
    own: str | None, files: dict[str, str], tmp_path: Path
) -> None:
    found = host_memory(cgroups=groups(tmp_path, own, files))
    assert found.total == psutil.virtual_memory().total
    assert found.available > found.total // 100
