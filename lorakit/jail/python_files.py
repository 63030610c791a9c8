"""Which files of this machine a jailed Python needs: the interpreter, its standard library, and the
shared libraries of both. Installed packages are not among them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lorakit.errors import InputError

# Extension modules whose libraries are there too. Those of windows, terminals and databases are
# left out: every file is a mount, and a mount takes time at every start.
EXTENSIONS = ("_bz2", "_ctypes", "_hashlib", "_lzma", "pyexpat", "zlib")
LDD_SECONDS = 30.0

_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


@dataclass(frozen=True)
class PythonFiles:
    """Paths, the same outside and inside.

    Attributes:
        executable: the interpreter.
        library: the folder of the standard library.
        shared: the shared libraries, by the path they are looked for at.
    """

    executable: Path
    library: Path
    shared: tuple[Path, ...]

    def mounts(self) -> list[str]:
        """Options of bwrap that make them readable, and nothing else."""
        options: list[str] = []
        for path in (self.executable, self.library, *self.shared):
            options += ["--ro-bind", str(path.resolve()), str(path)]
        for packages in ("site-packages", "dist-packages"):
            if (self.library / packages).is_dir():
                hidden = str(self.library / packages)
                options += ["--size", "4096", "--tmpfs", hidden, "--remount-ro", hidden]
        return options


@cache
def python_files(path: str | None = None, library: Path | None = None) -> PythonFiles:
    """Those of the Python that runs this, outside of any virtual environment.

    Args:
        path: where `ldd` is looked for; None: PATH.
        library: the folder of the standard library; None: that of this Python.

    Raises:
        InputError: they cannot be found.
    """
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    library = library or Path(sysconfig.get_path("stdlib"))
    if not executable.is_file() or not (library / "os.py").is_file():
        raise InputError(
            "the jail of code rewards needs a Python that is installed as files, and of this one "
            f"{str(executable)!r} or {str(library / 'os.py')!r} is missing. Use an ordinary Python "
            "(not one packed into a program), or remove the reward `code`."
        )
    return PythonFiles(executable, library, _shared_libraries(executable, library, path))


def _shared_libraries(executable: Path, library: Path, path: str | None) -> tuple[Path, ...]:
    ldd = shutil.which("ldd", path=path)
    if ldd is None:
        raise InputError(
            "the jail of code rewards asks `ldd` which shared libraries Python needs, and it is "
            "not on PATH. Install it (Debian, Ubuntu: libc-bin; Fedora: glibc-common)."
        )
    extensions = [
        path for name in EXTENSIONS for path in (library / "lib-dynload").glob(f"{name}.*.so")
    ]
    told = subprocess.run(
        [ldd, str(executable), *map(str, extensions)],
        capture_output=True,
        text=True,
        timeout=LDD_SECONDS,
    )
    found = sorted({Path(match[1]) for match in _LIBRARY.finditer(told.stdout)})
    if told.returncode or not found:
        raise InputError(
            f"`ldd {executable}` does not tell which shared libraries Python needs "
            f"({told.stderr.strip() or told.stdout.strip()!r}); the jail of code rewards cannot be "
            "built for this Python. Use an ordinary Python of your system or of python.org."
        )
    return tuple(found)
