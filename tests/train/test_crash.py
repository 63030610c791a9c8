"""Must-show 5: a run that is killed anywhere and resumed ends in the bytes of one that was not."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorakit.train.checkpoint import read_checkpoint
from lorakit.train.checkpoint_store import CheckpointStore
from tests.train import crash
from tests.train.crash import NUM_STEPS, READS_OF_STEPS, Options

ROOT = Path(__file__).parents[2]

# Everything that can change a file, a folder or a name, by its entry in Linux' system call table.
MUTATING = (
    "open,openat,openat2,creat,mkdir,mkdirat,rmdir,unlink,unlinkat,rename,renameat,renameat2,link,"
    "linkat,symlink,symlinkat,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate,"
    "fsync,fdatasync,sync_file_range,chmod,fchmod,fchmodat,copy_file_range,sendfile,flock"
)


class Driver:
    """The forking server of `tests.train.crash`."""

    def __init__(self, stderr: Path) -> None:
        self._stderr = stderr.open("w")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.train.crash", "--serve"],
            cwd=ROOT,
            # Modules that a run imports late leave no files either: system calls are counted.
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )

    def start(self, options: Options) -> int:
        """Start a run in a process of its own; its pid."""
        self._server.stdin.write(crash.to_line(options))
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def wait(self) -> int:
        """The exit code of the run that was started last; minus the signal that killed it."""
        return int(self._server.stdout.readline())

    def said(self) -> str:
        """What runs have written to stderr so far."""
        return Path(self._stderr.name).read_text()

    def finish(self, options: Options) -> int:
        """Start a run and wait for its end."""
        self.start(options)
        return self.wait()

    def close(self) -> None:
        self._server.communicate()
        self._stderr.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    running = Driver(tmp_path_factory.mktemp("driver") / "stderr")
    yield running
    running.close()


@pytest.fixture(scope="module")
def whole(driver: Driver, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert driver.finish(Options(str(tiny_folder), str(run_dir))) == 0
    return run_dir


def _result(run_dir: Path) -> dict[str, bytes]:
    last = run_dir / "checkpoints" / f"step-{NUM_STEPS}"
    files = [*last.glob("*.safetensors"), *(run_dir / "adapter").iterdir()]
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files}


def _assert_resumes(driver: Driver, options: Options, whole: Path, context: str) -> None:
    """One resume, without anything done by hand, ends where the uninterrupted run did."""
    resumed = Options(options.model, options.run_dir, resume=True)
    assert driver.finish(resumed) == 0, context
    assert _result(Path(options.run_dir)) == _result(whole), context
    leftovers = list(Path(options.run_dir, "checkpoints").glob(".tmp-*"))
    assert not leftovers, context


@pytest.mark.parametrize("kills", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_kill_at_random_moments(
    driver: Driver, whole: Path, tiny_folder: Path, tmp_path: Path, kills: int
) -> None:
    started = time.monotonic()
    driver.finish(Options(str(tiny_folder), str(tmp_path / "timed")))
    duration = time.monotonic() - started
    moments = random.Random(kills)
    died_at = collections.Counter()
    for kill in range(kills):
        options = Options(str(tiny_folder), str(tmp_path / f"run-{kill}"))
        pid = driver.start(options)
        time.sleep(moments.uniform(0, duration))
        with contextlib.suppress(ProcessLookupError):  # it was quicker, and the server reaped it
            os.kill(pid, signal.SIGKILL)
        code = driver.wait()
        assert code in (-signal.SIGKILL, 0)
        store = CheckpointStore(Path(options.run_dir, "checkpoints"), {}, keep=2)
        died_at[store.steps()[-1] if store.steps() else 0] += 1
        # The folder may not exist yet when the process dies early; then there is nothing to resume.
        Path(options.run_dir).mkdir(exist_ok=True)
        _assert_resumes(driver, options, whole, f"kill {kill}")
    print(f"{kills} kills; newest checkpoint when they struck: {dict(sorted(died_at.items()))}")


def test_a_chain_of_kills_in_one_run(
    driver: Driver, whole: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options = Options(str(tiny_folder), str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    for reads in (5, 9, 3, 1, 6):  # each counted from the resume it strikes
        pid = driver.start(Options(options.model, options.run_dir, resume=True, stop_at=(reads,)))
        _wait_until_stopped(pid)
        os.kill(pid, signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
    _assert_resumes(driver, options, whole, "chain")


# The first save also sets the reserve aside; the one after step 4 removes an old checkpoint.
SAVED_STEPS = [1, 4]


def _window(saved_step: int) -> tuple[int, int]:
    """The reads of examples before and after which this step is computed and saved."""
    first_read = sum(READS_OF_STEPS[: saved_step - 1]) + 1
    return first_read, first_read + READS_OF_STEPS[saved_step - 1]


@pytest.fixture(scope="module")
def strace(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed: killing before a system call needs it")
    probe = subprocess.run([path, "-o", os.devnull, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"strace may not trace here: {probe.stderr.strip()}")
    return path


@pytest.fixture(scope="module", params=SAVED_STEPS)
def save(request: pytest.FixtureRequest) -> int:
    """The step whose save is watched."""
    return request.param


@pytest.fixture(scope="module")
def save_log(
    driver: Driver,
    strace: str,
    tiny_folder: Path,
    save: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The mutating system calls of one save, as strace writes them, with the paths of files."""
    folder = tmp_path_factory.mktemp("calls")
    options = Options(str(tiny_folder), str(folder / "run"), stop_at=_window(save))
    pid = driver.start(options)
    _wait_until_stopped(pid)
    tracer = _attach(strace, pid, folder / "log", f"trace={MUTATING}")
    os.kill(pid, signal.SIGCONT)
    _wait_until(lambda: "--- SIGSTOP {" in (folder / "log").read_text(), "reach the next step")
    os.kill(pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    tracer.communicate()
    return (folder / "log").read_text()


@pytest.fixture(scope="module")
def save_calls(save_log: str) -> list[tuple[str, int]]:
    """Every mutating system call of one save, in order: (name, its number among those)."""
    names = re.findall(r"^\d+ +(\w+)\(", save_log, re.MULTILINE)
    seen = collections.Counter()
    calls = []
    for name in names:
        seen[name] += 1
        calls.append((name, seen[name]))
    return calls


def _kill_before(
    driver: Driver, strace: str, whole: Path, options: Options, call: tuple[str, int], log: Path
) -> int:
    """Kill a run before one system call of a save, resume it, compare; the newest step it left."""
    name, number = call
    pid = driver.start(options)
    _wait_until_stopped(pid)
    tracer = _attach(strace, pid, log, f"inject={name}:signal=KILL:when={number}")
    os.kill(pid, signal.SIGCONT)
    _wait_until(
        lambda: tracer.poll() is not None or "--- SIGSTOP {" in log.read_text(), "die or go on"
    )
    survived = tracer.poll() is None
    if survived:
        os.kill(pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    tracer.communicate()
    assert not survived, f"{name} number {number} was not called this time"
    store = CheckpointStore(Path(options.run_dir, "checkpoints"), {}, keep=2)
    # Whatever is visible under a checkpoint's name is whole.
    for step in store.steps():
        assert read_checkpoint(store.path(step)).step == step, call
    newest = store.steps()[-1] if store.steps() else 0
    _assert_resumes(driver, options, whole, f"killed before {name} number {number}")
    return newest


def test_everything_is_on_the_disk_before_the_rename(save_log: str, save: int) -> None:
    final = next(re.finditer(rf'rename\("([^"]+)", "([^"]+/step-{save})"\)', save_log))
    staging, checkpoint = final.groups()
    before, after = save_log[: final.start()], save_log[final.end() :]
    synced = set(re.findall(r"fsync\(\d+<([^>]+)>", before))
    written = re.findall(r'"([^"]+)", O_WRONLY\|O_CREAT', before)
    assert len(written) == 4 and written[-1] == f"{staging}/manifest.json"
    assert set(written) | {staging} <= synced
    # The manifest is begun when all it names is on the disk.
    begun = before.index(f'"{written[-1]}", O_WRONLY|O_CREAT')
    assert set(written[:-1]) <= set(re.findall(r"fsync\(\d+<([^>]+)>", before[:begun]))
    # The new name is on the disk before anything old goes.
    parent = re.search(rf"fsync\(\d+<{Path(checkpoint).parent}>", after).start()
    assert not re.search(r"unlink|rmdir|rename", after[:parent])
    # So are the metrics that the checkpoint counts on.
    assert any(path.endswith("metrics.jsonl") for path in synced)


def test_kill_before_the_calls_that_matter_most(
    driver: Driver,
    strace: str,
    whole: Path,
    tiny_folder: Path,
    tmp_path: Path,
    save: int,
    save_calls: list[tuple[str, int]],
) -> None:
    # The last write, the rename that makes the checkpoint visible, and the fsync after it.
    chosen = [[call for call in save_calls if call[0] == kind] for kind in ("write", "fsync")]
    renames = [call for call in save_calls if call[0] == "rename"]
    newest = set()
    for i, call in enumerate((chosen[0][-1], renames[0], chosen[1][-1])):
        options = Options(str(tiny_folder), str(tmp_path / f"run-{i}"), stop_at=_window(save))
        newest.add(_kill_before(driver, strace, whole, options, call, tmp_path / "log"))
    assert newest == {save - 1, save}


@pytest.mark.slow
def test_kill_before_every_mutating_call_of_a_save(
    driver: Driver,
    strace: str,
    whole: Path,
    tiny_folder: Path,
    tmp_path: Path,
    save: int,
    save_calls: list[tuple[str, int]],
) -> None:
    names = {name for name, _ in save_calls}
    assert {"openat", "write", "fsync", "rename", "mkdir"} <= names, names
    newest = collections.Counter()
    for i, call in enumerate(save_calls):
        options = Options(str(tiny_folder), str(tmp_path / f"run-{i}"), stop_at=_window(save))
        newest[_kill_before(driver, strace, whole, options, call, tmp_path / "log")] += 1
    assert set(newest) == {save - 1, save}
    counts = collections.Counter(name for name, _ in save_calls)
    print(f"killed before each of {len(save_calls)} calls: {dict(counts)}; newest: {dict(newest)}")


def test_sigterm_saves_and_exits_143(
    driver: Driver, whole: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        options = Options(str(tiny_folder), str(tmp_path / number.name), stop_at=_window(4))
        pid = driver.start(options)
        _wait_until_stopped(pid)
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        assert driver.wait() == code
        store = CheckpointStore(Path(options.run_dir, "checkpoints"), {}, keep=2)
        assert store.steps()[-1] == 4
        _assert_resumes(driver, options, whole, number.name)


def test_a_second_signal_ends_the_run_at_once(
    driver: Driver, whole: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options = Options(str(tiny_folder), str(tmp_path / "run"), stop_at=(5,), sleep_at=5)
    pid = driver.start(options)
    _wait_until_stopped(pid)
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.2)
    before = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert driver.wait() == 143
    assert time.monotonic() - before < 5  # the step it interrupts sleeps for a minute
    assert "SIGTERM again: ended at once, nothing more is saved" in driver.said()
    _assert_resumes(driver, options, whole, "second signal")


def _wait_until_stopped(pid: int) -> None:
    stat = Path(f"/proc/{pid}/stat")
    _wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "stop itself")


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the run did not {what} within a minute")
        time.sleep(0.002)


def _attach(strace: str, pid: int, log: Path, expression: str) -> subprocess.Popen:
    """strace on a stopped process; returns once it is attached."""
    tracer = subprocess.Popen(
        [strace, "-f", "-y", "-p", str(pid), "-o", str(log), "-e", expression],
        stderr=subprocess.PIPE,
        text=True,
    )
    message = tracer.stderr.readline()
    if "attached" not in message:
        tracer.kill()
        os.kill(pid, signal.SIGKILL)
        pytest.skip(f"strace cannot attach here: {message.strip()}")
    return tracer
