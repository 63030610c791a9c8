"""A little of everything in this room, in three seconds: where the jail cannot be built, this fails
and says what to do. Slow like the rest of the room, since the default run has to pass on machines
that cannot build it.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from lorakit import tasks
from lorakit.errors import InputError
from lorakit.jail.jail import Jail, open_jail
from lorakit.jail.parts import find_parts
from lorakit.tasks import ScoringOptions
from lorakit.tasks._code_cases import judge
from tests.jail import attempts, cheats
from tests.jail.test_cheats import tripled, unguessable
from tests.jail.test_escapes import SOURCE, given, lines, outside  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

# One for each wall.
ATTEMPTS = (
    *("fork", "thread", "memory_in_one_piece", "memory_beyond_its_limit", "memory_as_a_file"),
    *("environment", "file_of_the_host", "folder_of_processes", "descriptors", "fill_the_disk"),
    *("change_the_library", "network_tcp", "network_abstract", "end_the_parent"),
    *("processors_of_the_parent", "outlive_the_parent", "trace_the_first_process"),
    *("new_user_namespace", "mount_proc", "capabilities", "io_uring", "unknown_to_anybody"),
)
ENDED = ("flood", "crash", "calls_of_another_architecture", "calls_of_32_bits")
CHEATS = (
    *("exit when called", "equal to everything", "frames", "forge the encoder"),
    *("answer with the right nonce", "answer with an old nonce", "a list without end"),
)


def test_it_holds(patient: Jail, outside: dict[str, Any]) -> None:  # noqa: F811
    outcome = patient.run(SOURCE, given(list(ATTEMPTS), outside))
    found = lines(outcome.value or "")
    assert found.keys() == set(ATTEMPTS), outcome
    assert {name for name, how in found.items() if not how.startswith("held")} == set()
    for name in ENDED:
        outcome = patient.run(SOURCE, given([name], outside))
        assert outcome.value is None and outcome.fault is not None, name
        assert re.search(attempts.ENDED[name][1], outcome.fault), name


def test_it_rewards_what_is_right_alone(patient: Jail) -> None:
    for name in CHEATS:
        assert not judge(cheats.FUNCTIONS[name], unguessable(), patient).right, name
    for name in ("plain", "method"):
        function, code = cheats.HONEST_FUNCTIONS[name]
        assert judge(code, tripled(function), patient).right, name
    assert judge(cheats.HONEST_PROGRAMS["plain"], tripled(None), patient).right


def test_the_same_code_runs_once(patient: Jail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions of one question are often the same."""
    ran: list[str] = []

    class Counting:
        def run(self, source: str, given: str) -> Any:
            ran.append(source)
            return patient.run(source, given)

    monkeypatch.setattr("lorakit.tasks.code.jail", Counting)
    reference = json.dumps({"cases": [["1\n", "3\n"]]})
    other = json.dumps({"cases": [["1\n", "4\n"]]})
    right, wrong = "print(int(input()) * 3)", "print(input())"
    answers, references = [right, wrong, right, right], [reference, reference, other, reference]
    found = tasks.scorer("code").scores(answers, references, ScoringOptions())
    assert found.tolist() == [1, 0, 0, 1] and sorted(ran) == sorted([right, wrong, right])


def test_it_is_refused_where_a_wall_is_missing(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"no `bwrap` on PATH.*apt-get install bubblewrap"):
        find_parts(str(tmp_path))
    with pytest.raises(InputError, match="sockets not shut off"):
        open_jail(parts=replace(find_parts(), seccomp=None))
