"""What a jail is built of, looked for and checked; what is missing is refused with its fix."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lorakit.errors import InputError
from lorakit.jail import inside
from lorakit.jail.contained import Descriptors, Limits
from lorakit.jail.python_files import PythonFiles, python_files
from lorakit.jail.seccomp import filter_program

INSTALL = (
    "Install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install "
    "bubblewrap; Arch: pacman -S bubblewrap)"
)
NEEDED_OPTIONS = ("--disable-userns", "--as-pid-1", "--info-fd", "--seccomp", "--size")
OLDEST = "0.8.0"  # the first with --disable-userns
HELP_SECONDS = 30.0
NOBODY = "65534"

# New namespaces for users, processes, network, hosts' names, shared memory, mounts and cgroups; no
# further ones inside; no capability; the end of bwrap or of its parent is the end of all of it.
NAMESPACES = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
    *("--as-pid-1", "--clearenv", "--cap-drop", "ALL", "--uid", NOBODY, "--gid", NOBODY),
    *("--hostname", "jail"),
)
# Nothing else is in the environment: hashes, and with them the order of sets, are the same in
# every run, and texts are UTF-8.
ENVIRONMENT = ("--setenv", "PYTHONHASHSEED", "0", "--setenv", "PYTHONUTF8", "1")
# No site-packages, nothing imported from where the program lies, no compiled files written.
PYTHON_OPTIONS = ("-s", "-P", "-S", "-B")


@dataclass(frozen=True)
class Parts:
    """What a jail is built of.

    Attributes:
        bwrap: the program.
        python: the files it shows.
        seccomp: the filter of system calls; None: none, to see what else holds.
        inside: the program that takes the limits and runs the code.
    """

    bwrap: str
    python: PythonFiles
    seccomp: bytes | None
    inside: Path

    def command(
        self, limits: Limits, kind: str, function: str, descriptors: Descriptors
    ) -> list[str]:
        """The command for one run; the files are the code and, if there is one, the filter."""
        code, *filters = descriptors.files
        return [
            self.bwrap,
            *NAMESPACES,
            *ENVIRONMENT,
            *self.python.mounts(),
            *("--ro-bind", str(self.inside), "/inside.py"),
            *("--ro-bind-data", str(code), inside.SOLUTION),
            *("--remount-ro", "/", "--chdir", "/", "--info-fd", str(descriptors.info)),
            *(option for number in filters for option in ("--seccomp", str(number))),
            *("--", str(self.python.executable), *PYTHON_OPTIONS, "/inside.py", kind),
            *(
                str(descriptors.started),
                str(limits.memory_bytes),
                str(limits.cpu_seconds),
                function,
            ),
        ]


def find_parts(
    path: str | None = None, machine: str | None = None, system: str | None = None
) -> Parts:
    """The parts on this machine.

    Args:
        path: where programs are looked for; None: PATH.
        machine: as `platform.machine()` names it; None: this one.
        system: as `sys.platform` names it; None: this one.

    Raises:
        InputError: naming what is missing and how it is got.
    """
    if (system or sys.platform) != "linux":
        raise InputError(
            "code rewards run in a jail of Linux namespaces, and this system is "
            f"{system or sys.platform!r}. Run on Linux (on Windows: in WSL 2), or remove the "
            "reward `code`."
        )
    seccomp = filter_program(machine or platform.machine())
    return Parts(_bwrap(path), python_files(path), seccomp, Path(inside.__file__))


def check_kernel() -> None:
    """The outside watches processes by descriptors.

    Raises:
        InputError: this kernel has none.
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
        os.close(os.memfd_create("jail"))
    except OSError as error:
        raise InputError(
            f"the jail of code rewards needs pidfd_open and memfd_create, and here they fail "
            f"({error}). Use Linux 5.3 or newer; in a container, allow both system calls."
        ) from error


def _bwrap(path: str | None) -> str:
    found = shutil.which("bwrap", path=path)
    if found is None:
        raise InputError(
            "code rewards run in a jail that is built by bubblewrap, and there is no `bwrap` on "
            f"PATH. {INSTALL}, version {OLDEST} or newer, or remove the reward `code`."
        )
    told = _said_by(found, "--help")
    missing = [option for option in NEEDED_OPTIONS if not re.search(rf"{option}\b", told)]
    if missing:
        raise InputError(
            f"{found} ({_said_by(found, '--version').strip() or 'no version'}) has no "
            f"{', '.join(missing)}, which the jail of code rewards needs. {INSTALL} {OLDEST} or "
            "newer."
        )
    return found


def _said_by(program: str, option: str) -> str:
    try:
        told = subprocess.run(
            [program, option], capture_output=True, text=True, timeout=HELP_SECONDS, env={}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"`{program} {option}` cannot be run: {error}. {INSTALL}.") from error
    return told.stdout + told.stderr
