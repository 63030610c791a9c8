"""Nothing gets out of the jail, nothing outside is changed, and all of it ends in time."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lorakit.jail.jail import Jail, Outcome
from tests.jail import attempts
from tests.jail.world import MEMORY_BYTES, STRICT, processes_inside

# Not in the default run before it is known that every machine of it can build the jail.
pytestmark = pytest.mark.slow

SOURCE = Path(attempts.__file__).read_text(encoding="utf-8")
VARIABLE, SECRET = "LORAKIT_CANARY", "in the environment of the tests"
AT_A_TIME = 20  # attempts in one process, where nothing of one is left for the next
SPARE_SECONDS = 2.0  # on a busy machine; docs/jail.md has what it takes on a quiet one


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What could be reached: a secret, a file, a server of every kind, this process."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "secret.txt").write_text("a secret")
    abstract = f"lorakit-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as unnamed,
        pytest.MonkeyPatch.context() as patch,
    ):
        for one, address in ((named, str(folder / "socket")), (unnamed, f"\0{abstract}")):
            one.bind(address)
            one.listen()
        patch.setenv(VARIABLE, SECRET)
        yield {
            "variable": VARIABLE,
            "secret": SECRET,
            "file": str(folder / "secret.txt"),
            "home": str(folder),
            "port": server.getsockname()[1],
            "socket": str(folder / "socket"),
            "abstract": abstract,
            "pid": os.getpid(),
            "memory_bytes": MEMORY_BYTES,
        }


def given(names: list[str], outside: dict[str, Any]) -> str:
    return json.dumps(outside | {"names": names})


def lines(text: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in text.splitlines())


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """{file: mode, size, last change} of a folder, of Python's library and of this room."""
    roots = (folder, Path(os.__file__).parent, Path(__file__).parents[2] / "lorakit" / "jail")
    files = [path for root in roots for path in root.glob("*") if "__pycache__" not in path.name]
    stated = {str(path): path.lstat() for path in files}
    return {path: (one.st_mode, one.st_size, one.st_mtime_ns) for path, one in stated.items()}


def test_every_attempt_is_refused(patient: Jail, outside: dict[str, Any]) -> None:
    names = list(attempts.HELD)
    assert len(names) + len(attempts.ENDED) >= 140
    parts = [names[start : start + AT_A_TIME] for start in range(0, len(names), AT_A_TIME)]
    before = snapshot(Path(outside["home"]))
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(lambda part: patient.run(SOURCE, given(part, outside)), parts))
    assert [outcome.fault for outcome in outcomes] == [None] * len(parts)
    became = {name: how for outcome in outcomes for name, how in lines(outcome.value).items()}
    assert became.keys() == attempts.HELD.keys()
    assert {name: how for name, how in became.items() if not how.startswith("held")} == {}
    assert snapshot(Path(outside["home"])) == before


def test_the_same_attempts_work_outside(outside: dict[str, Any]) -> None:
    """So that it is the jail that holds them, and not a mistake of theirs."""
    names = sorted(attempts.HARMLESS)
    done = subprocess.run(
        [sys.executable, attempts.__file__],
        input=given(names, outside),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert lines(done.stdout) == dict.fromkeys(names, "escaped"), done.stderr
    assert len(names) >= 35


def test_what_does_not_end_is_ended(strict: Jail, outside: dict[str, Any]) -> None:
    def run(name: str) -> tuple[Outcome, float]:
        started = time.monotonic()
        outcome = strict.run(SOURCE, given([name], outside))
        return outcome, time.monotonic() - started

    # Most of them sleep; of those that compute not many at a time.
    with ThreadPoolExecutor(4) as threads:
        found = dict(zip(attempts.ENDED, threads.map(run, attempts.ENDED), strict=True))
    for name, (outcome, seconds) in found.items():
        assert outcome.value is None and outcome.fault is not None, name
        assert re.search(attempts.ENDED[name][1], outcome.fault), (name, outcome.fault)
        assert seconds < STRICT.seconds + SPARE_SECONDS, name


PARENT = """
import sys
from lorakit.jail.contained import Limits
from lorakit.jail.jail import open_jail
jail = open_jail(Limits(seconds=600.0, memory_bytes=int(sys.argv[1])))
print("ready", flush=True)
jail.run("import time; time.sleep(600)", "")
"""


def test_nothing_is_left_of_a_parent_that_is_killed() -> None:
    memory_bytes = MEMORY_BYTES + 1
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(memory_bytes)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
    wait_for(lambda: len(processes_inside(memory_bytes)) >= 2 + 1)  # bwrap, its child, the parent
    parent.kill()
    parent.communicate()
    wait_for(lambda: not processes_inside(memory_bytes))


def wait_for(true: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
