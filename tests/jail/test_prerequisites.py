"""Each thing that the jail needs is taken away in turn: always a refusal that names the fix."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lorakit import tasks
from lorakit.errors import InputError
from lorakit.evaluate.outside import check_outside
from lorakit.jail import inside
from lorakit.jail.jail import jail, open_jail
from lorakit.jail.parts import Parts, find_parts
from lorakit.jail.python_files import python_files
from lorakit.jail.seccomp import ALLOW, JUMP_EQUAL, LOAD, REFUSE, RETURN
from lorakit.recipe import EvaluateSection
from lorakit.tasks import ScoringOptions
from tests.jail.walls import WALLS

# Not in the default run before it is known that every machine of it can build the jail.
pytestmark = pytest.mark.slow

PRCTL, SECCOMP, PIDFD_OPEN = {"x86_64": (157, 317, 434), "aarch64": (167, 277, 434)}[
    os.uname().machine
]
PR_SET_SECCOMP, INVALID, NO_SUCH_CALL = 22, 22, 38
FIRST_ARGUMENT_AT = 16


@pytest.fixture(scope="module")
def parts() -> Parts:
    return find_parts()


def program(folder: Path, text: str) -> Path:
    path = folder / "bwrap"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def test_no_bubblewrap(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no `bwrap` on PATH.*apt-get install bubblewrap"):
        find_parts(str(tmp_path))


def test_no_bubblewrap_for_the_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is not run in another way nor called wrong, and that is found before training."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    jail.cache_clear()
    reference = json.dumps({"cases": [["", ""]]})
    with pytest.raises(InputError, match="code rewards run in a jail"):
        tasks.scorer("code").scores(["open('ran', 'w')"], [reference], ScoringOptions())
    check_outside(EvaluateSection(metrics=["loss"]), asks=True)
    with pytest.raises(InputError, match="code rewards run in a jail"):
        check_outside(EvaluateSection(metrics=["code"]), asks=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--disable-userns", "--seccomp", "--info-fd"])
def test_a_bubblewrap_that_is_too_old(tmp_path: Path, parts: Parts, option: str) -> None:
    told = subprocess.run([parts.bwrap, "--help"], capture_output=True, text=True).stdout
    assert option in told
    (tmp_path / "help").write_text(told.replace(option, "--another"), encoding="utf-8")
    program(tmp_path, f"#!/bin/sh\n[ $1 = --help ] && /bin/cat {tmp_path}/help || echo bwrap 0.4\n")
    with pytest.raises(InputError, match=rf"\(bwrap 0\.4\) has no {option}.*0\.8\.0 or newer"):
        find_parts(str(tmp_path))


def test_a_bubblewrap_that_cannot_be_run(tmp_path: Path) -> None:
    program(tmp_path, "#!/there/is/no/such/program\n")
    with pytest.raises(InputError, match=r"--help` cannot be run: .*Install bubblewrap"):
        find_parts(str(tmp_path))


def test_another_system_and_another_machine() -> None:
    with pytest.raises(InputError, match=r"this system is 'darwin'\. Run on Linux"):
        find_parts(system="darwin")
    with pytest.raises(InputError, match=r"this machine is 'riscv64'\. Run on one of those"):
        find_parts(machine="riscv64")


def test_a_python_without_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"os\.py' is missing\. Use an ordinary Python"):
        python_files(library=tmp_path)


def test_no_ldd(tmp_path: Path, parts: Parts) -> None:
    (tmp_path / "bwrap").symlink_to(parts.bwrap)
    with pytest.raises(InputError, match=r"`ldd`.*not on PATH\. Install it"):
        find_parts(str(tmp_path))


def test_an_ldd_that_tells_nothing(tmp_path: Path, parts: Parts) -> None:
    (tmp_path / "bwrap").symlink_to(parts.bwrap)
    (tmp_path / "ldd").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    (tmp_path / "ldd").chmod(0o755)
    with pytest.raises(InputError, match=r"'broken'.*Use an ordinary Python"):
        find_parts(str(tmp_path))


@pytest.mark.parametrize("wall", WALLS)
def test_a_wall_that_is_not_there(tmp_path: Path, parts: Parts, wall: str) -> None:
    changed = replace(parts, bwrap=str(wrapper(tmp_path, parts.bwrap, wall)))
    with pytest.raises(InputError, match="jail of code rewards") as caught:
        open_jail(parts=changed)
    told = str(caught.value)
    if wall == "process numbers":  # bwrap itself will not have it
        assert "did not start: bwrap: Specifying --as-pid-1 requires --unshare-pid" in told
    else:
        assert {"root": "files to write"}.get(wall, wall) in told
        assert "Use the bwrap of your distribution" in told


@pytest.mark.skipif(
    {name for _, name in socket.if_nameindex()} <= {"lo"}, reason="this machine has no network"
)
def test_the_network_is_there(tmp_path: Path, parts: Parts) -> None:
    changed = replace(parts, bwrap=str(wrapper(tmp_path, parts.bwrap, "network")))
    with pytest.raises(InputError, match="does not hold on this machine: network not shut off"):
        open_jail(parts=changed)


def wrapper(folder: Path, bwrap: str, wall: str) -> Path:
    """A program that calls bwrap with a wall less."""
    return program(
        folder,
        f"#!{sys.executable}\n"
        "import os, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.jail.walls import all_but, WALLS\n"
        f"change = WALLS.get({wall!r}) or all_but('net')\n"
        f"os.execv({bwrap!r}, [{bwrap!r}, *change(sys.argv[1:])])\n",
    )


def test_an_open_descriptor(tmp_path: Path, parts: Parts) -> None:
    path = program(tmp_path, f'#!/bin/sh\nexec 9</dev/null\nexec {parts.bwrap} "$@"\n')
    with pytest.raises(InputError, match="descriptors not shut off"):
        open_jail(parts=replace(parts, bwrap=str(path)))


def test_no_filter(parts: Parts) -> None:
    # Behind the filter a user other than root still meets RLIMIT_NPROC.
    told = r": (processes, threads, )?sockets not shut off.*CONFIG_SECCOMP_FILTER"
    with pytest.raises(InputError, match=told):
        open_jail(parts=replace(parts, seccomp=None))


@pytest.mark.parametrize(
    ("limit", "wall"), [("RLIMIT_AS", "memory"), ("RLIMIT_CPU", "processor time")]
)
def test_a_limit_that_is_not_taken(tmp_path: Path, parts: Parts, limit: str, wall: str) -> None:
    text = Path(inside.__file__).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if f"setrlimit(resource.{limit}" not in line]
    assert len(lines) == len(text.splitlines()) - 1
    (tmp_path / "inside.py").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=rf"{wall} not shut off.*enforces RLIMIT_AS"):
        open_jail(parts=replace(parts, inside=tmp_path / "inside.py"))


OPEN = "from lorakit.jail.jail import open_jail; open_jail()"


def test_no_user_namespaces(parts: Parts) -> None:
    """In a namespace whose own limit of them is none."""
    command = f"echo 0 > /proc/sys/user/max_user_namespaces && exec {sys.executable} -c '{OPEN}'"
    done = subprocess.run(
        [
            *(parts.bwrap, "--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL"),
            *("--dev-bind", "/", "/", "--proc", "/proc", "/bin/sh", "-c", command),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
    )
    assert "InputError: the jail of code rewards did not start: bwrap:" in done.stderr
    assert "Allow user namespaces: sysctl user.max_user_namespaces" in done.stderr


def fails_with(
    error: int, number: int, first: int | None = None
) -> list[tuple[int, int, int, int]]:
    """Instructions by which one system call fails, if its first argument is `first`."""
    told = (RETURN, 0, 0, (REFUSE & 0xFFFF0000) | error)
    if first is None:
        return [(LOAD, 0, 0, 0), (JUMP_EQUAL, 0, 1, number), told]
    argument = [(LOAD, 0, 0, FIRST_ARGUMENT_AT), (JUMP_EQUAL, 0, 1, first)]
    return [(LOAD, 0, 0, 0), (JUMP_EQUAL, 0, 3, number), *argument, told]


@pytest.mark.parametrize(
    ("calls", "told", "fix"),
    [
        (
            [*fails_with(INVALID, PRCTL, PR_SET_SECCOMP), *fails_with(INVALID, SECCOMP)],
            "the jail of code rewards did not start: bwrap: ",
            "Use a kernel with CONFIG_SECCOMP_FILTER, and",
        ),
        (fails_with(NO_SUCH_CALL, PIDFD_OPEN), "needs pidfd_open", "Use Linux 5.3 or newer"),
    ],
)
def test_a_kernel_that_cannot(
    tmp_path: Path, parts: Parts, calls: list[tuple[int, int, int, int]], told: str, fix: str
) -> None:
    """As it is for a process whose own filter lets these calls fail."""
    instructions = [*calls, (RETURN, 0, 0, ALLOW)]
    (tmp_path / "filter").write_bytes(b"".join(struct.pack("=HBBI", *one) for one in instructions))
    with (tmp_path / "filter").open("rb") as file:
        done = subprocess.run(
            [
                *(parts.bwrap, "--dev-bind", "/", "/", "--seccomp", str(file.fileno())),
                *(sys.executable, "-c", OPEN),
            ],
            capture_output=True,
            text=True,
            pass_fds=[file.fileno()],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            timeout=60,
        )
    assert "InputError" in done.stderr and told in done.stderr and fix in done.stderr


def test_the_jail_can_be_built_here() -> None:
    """Says what to do on a machine where all of this room fails for one reason."""
    assert shutil.which("bwrap"), (
        "bubblewrap is not installed: apt-get install bubblewrap (make test tries it as root)"
    )
    open_jail()
