"""Jails of the tests, and what must be as before after each of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorakit.jail.jail import Jail, open_jail
from tests.jail.world import MEMORY_BYTES, PATIENT, STRICT, processes_inside


@pytest.fixture(scope="session")
def patient() -> Jail:
    """For what ends by itself. On a machine that cannot build the jail this fails, with the fix."""
    return open_jail(PATIENT)


@pytest.fixture(scope="session")
def strict() -> Jail:
    """For what has to be ended."""
    return open_jail(STRICT)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert not processes_inside(MEMORY_BYTES)
    assert descriptors() <= before


def descriptors() -> set[str]:
    """Pipes, files in memory and processes that this process holds open."""
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    found = {os.readlink(link) for link in links if link.is_symlink()}
    return {one for one in found if one.startswith(("pipe:", "/memfd:jail", "anon_inode:[pidfd]"))}
