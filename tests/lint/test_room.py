"""Whether a run fits: what is still to be allocated against what is free, counted once each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.hardware import hardware_of
from lorakit.lint.room import need_of
from lorakit.lint.rules import does_not_fit, fits_only_just
from lorakit.plan.libraries import ROOMS
from lorakit.plan.plan import plan
from lorakit.plan.rows import Sets
from lorakit.train.memory import Room, process_bytes, room_of
from tests.lint.corpus.case import Case

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    folder = tmp_path_factory.mktemp("room")
    return Case().facts(folder, folder / "cache")


def in_room(facts: Facts, room: Room) -> Facts:
    return replace(facts, hardware=replace(facts.hardware, room=room))


def found(facts: Facts, room: Room) -> list[Finding]:
    here = in_room(facts, room)
    rules: list[Iterator[Finding]] = [does_not_fit.find(here), fits_only_just.find(here)]
    return [finding for rule in rules for finding in rule]


def needed(facts: Facts) -> int:
    assert facts.plan is not None
    return facts.plan.needed


def whole(facts: Facts) -> Facts:
    """The run where all that it needs is its own and may be here by now."""
    assert facts.plan is not None
    own = replace(facts.plan, own=needed(facts))
    return replace(facts, make_plan=lambda: own)


def test_what_the_run_holds_already_is_not_asked_for_again(facts: Facts) -> None:
    """The same machine before anything was loaded, and with any share of the run in memory."""
    enough, little = 2 * needed(facts), needed(facts) // 2
    run = whole(facts)
    for share in (0.0, 0.3, 0.9, 1.0):
        held = int(share * needed(facts))
        assert found(run, Room(enough - held, 2 * enough, held)) == []
        held = int(share * little)
        need = need_of(in_room(run, Room(little - held, little, held)))
        assert need is not None and need.available == little
    # What a finding says takes seconds to find, and is the same for all shares.
    (finding,) = found(run, Room(little - held, little, held))
    assert (finding.id, finding.severity) == ("does-not-fit", "error")
    # All of it is here, and nothing else is free: it goes on as it is.
    (finding,) = found(run, Room(0, 4 * enough, needed(facts)))
    assert finding.id == "fits-only-just"


def test_what_the_process_holds_for_others_is_not_the_run_s(facts: Facts) -> None:
    """A notebook's array beside the run, or another model on the GPU."""
    enough = 2 * needed(facts)
    for free, held, findings in (
        (needed(facts) // 2, enough, ["does-not-fit"]),
        (enough, enough, []),
    ):
        room = Room(free, 4 * enough, held)
        assert [finding.id for finding in found(facts, room)] == findings


def test_the_run_s_own_is_its_rows_its_libraries_and_the_base_once_it_is_loaded(
    facts: Facts,
) -> None:
    sets = Sets.of(facts.sets)
    waits, is_loaded = (plan(facts.recipe, sets=sets, is_loaded=one) for one in (False, True))
    assert waits.own == waits.peaks.rows + waits.peaks.held_from_the_start
    assert waits.peaks.held_from_the_start > ROOMS
    assert is_loaded.own == waits.own + is_loaded.memory.weights
    assert is_loaded.own < is_loaded.needed


def test_an_array_of_somebody_else_takes_what_is_available(facts: Facts) -> None:
    """As many bytes as it has are not available any more, though this process holds them."""
    assert facts.plan is not None
    # More is held than the run's own already, wherever the test stands among others.
    filler = np.ones(facts.plan.own, dtype=np.uint8)
    room = room_of(CPU)
    block = np.ones(256 * MIB, dtype=np.uint8)
    after = room_of(CPU)
    assert after.held - room.held > 240 * MIB
    for one in (room, after):
        assert one.available(facts.plan.own) == min(one.total, one.free + facts.plan.own)
    del block, filler


def test_no_run_has_more_than_the_device(facts: Facts) -> None:
    room = Room(free=needed(facts), total=needed(facts) // 2, held=needed(facts))
    need = need_of(in_room(facts, room))
    assert need is not None
    assert need.available == need.total == room.total


def test_what_is_held_is_what_was_allocated(facts: Facts) -> None:
    before, room = process_bytes(CPU), hardware_of(facts.recipe.base).room
    block = np.ones(128 * MIB, dtype=np.uint8)
    assert 120 * MIB < process_bytes(CPU) - before < 140 * MIB
    assert room is not None
    assert room.total == psutil.virtual_memory().total
    assert room.held < 120 * MIB + before
    del block
    assert process_bytes(CPU) - before < 50 * MIB


def test_pages_of_files_are_free_memory_and_not_held(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(64 * MIB))
    before = process_bytes(CPU), psutil.Process().memory_info().rss
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    assert mapped[::512].sum() == 0
    assert psutil.Process().memory_info().rss - before[1] > 60 * MIB
    assert process_bytes(CPU) - before[0] < 10 * MIB
