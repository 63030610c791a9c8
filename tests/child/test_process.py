"""Whatever somebody else's code does, the caller is told in time and the next request works."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorakit.child import serve
from lorakit.child.process import CallError, ChildProcess, LostChildError
from lorakit.errors import RunError

UNRULY = Path(__file__).with_name("unruly.py")
SECONDS = 30.0  # of requests that end by themselves
ANSWER_BYTES = 8 << 20


def unruly(*arguments: str, start_seconds: float = 60.0) -> ChildProcess:
    return ChildProcess(
        "the process of the tests",
        UNRULY,
        arguments,
        needs="json",
        memory_bytes=256 << 20,
        answer_bytes=ANSWER_BYTES,
        start_seconds=start_seconds,
    )


def ask(child: ChildProcess, do: str, given: object = None, seconds: float = SECONDS) -> object:
    return child.ask(json.dumps([do, given]).encode(), seconds)


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for counts too."""
    return Path(f"/proc/{pid}").exists()


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process that is not ours to wait for goes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # its new parent has not looked yet
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def child() -> Iterator[ChildProcess]:
    one = unruly()
    yield one
    one.close()


def test_values_come_back_as_they_are(child: ChildProcess) -> None:
    given = {"é\n": [1, 2.5, None, True, "\ud83d", "\U0001f600"], "long": "x" * (3 << 20)}
    assert ask(child, "same", given) == given
    pid = child.pid
    one, other = ask(child, "nan")  # type: ignore[misc]
    assert math.isnan(one) and other == math.inf
    assert child.pid == pid


@pytest.mark.parametrize(
    ("do", "told"),
    [
        ("raises", "KeyError: 'score'"),
        ("not_json", "TypeError: Object of type set is not JSON serializable"),
        ("unspeakable", "UnspeakableError"),
        ("leaves", "SystemExit: 3"),
        ("grows", "MemoryError"),
    ],
)
def test_an_exception_is_told_and_the_child_stays(child: ChildProcess, do: str, told: str) -> None:
    ask(child, "same")
    pid = child.pid
    with pytest.raises(CallError) as caught:
        ask(child, do)
    assert str(caught.value) == told
    assert caught.value.type_name == told.partition(":")[0]
    if do == "raises":
        assert "unruly.py" in caught.value.trace and "in raises" in caught.value.trace
    assert ask(child, "same", 1) == 1 and child.pid == pid


@pytest.mark.parametrize(
    ("do", "seconds", "told"),
    [
        ("hangs", 0.3, "did not answer within 0.3 s"),
        ("holds_the_interpreter", 0.3, "did not answer within 0.3 s"),
        ("prints_for_ever", 0.3, "did not answer within 0.3 s"),
        ("ends", SECONDS, "ended with exit code 7: last words"),
        ("crashes", SECONDS, "was ended by SIGSEGV"),
        ("floods", SECONDS, f"answered with {(9 << 20) + 2:,} bytes; {ANSWER_BYTES:,} are allowed"),
    ],
)
def test_a_lost_child_is_told_reaped_and_replaced(
    child: ChildProcess, do: str, seconds: float, told: str
) -> None:
    ask(child, "same")
    pid = child.pid
    assert pid is not None
    with pytest.raises(LostChildError, match=f"^the process of the tests {told}"):
        ask(child, do, seconds=seconds)
    assert child.pid is None and not is_there(pid)  # no zombie either
    assert ask(child, "same", 1) == 1 and child.pid not in (None, pid)


def test_what_it_prints_is_no_answer_and_blocks_nobody(child: ChildProcess) -> None:
    assert ask(child, "prints") == "done"
    assert ask(child, "reads") == ""
    noisy = unruly("prints")
    assert ask(noisy, "same", 1) == 1
    noisy.close()


def test_what_it_started_goes_with_it(child: ChildProcess, tmp_path: Path) -> None:
    """Also while that holds the pipes open, so that the child's end is not seen on them."""
    with pytest.raises(LostChildError, match="ended with exit code 0"):
        ask(child, "lingers", str(tmp_path / "pid"))
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_child_that_was_ended_between_two_requests_is_replaced(child: ChildProcess) -> None:
    ask(child, "same")
    pid = child.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ask(child, "same", 1) == 1
    assert not is_there(pid)


def test_a_child_that_cannot_start_is_told() -> None:
    broken = unruly("fails")
    told = r"did not start: it ended with exit code 1: ImportError: no module.*'import json'` works"
    for _ in range(2):
        with pytest.raises(RunError, match=told) as caught:
            ask(broken, "same")
        assert not isinstance(caught.value, LostChildError) and broken.pid is None
    slow = unruly("hangs", start_seconds=1.0)
    with pytest.raises(RunError, match="did not start: it did not answer within 1 s"):
        ask(slow, "same")
    assert slow.pid is None


def test_threads_take_turns_and_close_ends_a_request(child: ChildProcess) -> None:
    found: list[object] = []

    def many(start: int) -> None:
        found.extend(ask(child, "same", n) for n in range(start, start + 50))

    threads = [threading.Thread(target=many, args=(start,)) for start in (0, 50, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(150))  # type: ignore[type-var]

    told: list[BaseException] = []

    def hang() -> None:
        try:
            ask(child, "hangs")
        except LostChildError as error:
            told.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    time.sleep(0.2)
    child.close()
    thread.join(10)
    assert not thread.is_alive() and "SIGKILL" in str(told[0])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # pytest may have threads
def test_a_forked_process_has_a_child_of_its_own(child: ChildProcess) -> None:
    ask(child, "same")
    mine, (read, write) = child.pid, os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            before, answer = child.pid, ask(child, "same", 5)
            os.write(write, json.dumps([before, answer, child.pid]).encode())
            child.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    before, answer, its = json.loads(os.read(read, 1000))
    os.close(read)
    os.close(write)
    assert before is None and answer == 5 and its != mine and not is_there(its)
    assert ask(child, "same", 6) == 6 and child.pid == mine


def test_a_forgotten_object_takes_its_child_along() -> None:
    one = unruly()
    one.start()
    pid = one.pid
    assert pid is not None and is_there(pid)
    del one
    gc.collect()
    assert not is_there(pid)


PROGRAM = """
import sys, time
from pathlib import Path
from lorakit.child.process import ChildProcess
child = ChildProcess("it", Path(sys.argv[1]))
child.ask(b'["same", 1]', 30)
print(child.pid, flush=True)
if sys.argv[2] == "in a request":
    child.ask(b'["hangs", 1]', 1)
elif sys.argv[2] == "waits":
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["ends", "waits", "in a request"])
def test_nothing_is_left_of_a_parent_that_ends_or_is_killed(how: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(UNRULY), how],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if how != "ends":
        time.sleep(0.3)
        parent.kill()
    parent.communicate()
    # A child that is busy is ended by the system when its time is up.
    assert gone(pid, seconds=1 + serve.GRACE_SECONDS + 5)


def test_who_waits_may_end_the_child(child: ChildProcess) -> None:
    """As a signal does in the midst of a reward."""
    ask(child, "same")
    pid, calls = child.pid, 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        child.ask(json.dumps(["hangs", None]).encode(), 600.0, while_waiting=stop)
    assert pid is not None and child.pid is None and not is_there(pid)
    assert ask(child, "same", 1) == 1 and child.pid not in (None, pid)
