"""The control groups that this process is in: what a container may take of its machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Cgroups:
    """Where the system tells of groups, version 1 or 2.

    Attributes:
        own: a file of lines `number:controllers:path`, the groups that this process is in.
        mounted: the folder of all groups.
    """

    own: Path = Path("/proc/self/cgroup")
    mounted: Path = Path("/sys/fs/cgroup")

    def of(self, controller: str) -> Iterator[tuple[Path, bool]]:
        """(folder, whether it is of version 1) of each group that limits this process in what
        `controller` counts ("cpu", "memory"); a group is limited by those above it too.

        None where nobody tells. In a container a folder may lead nowhere.
        """
        try:
            lines = self.own.read_text().splitlines()
        except OSError:  # no /proc: nobody says that there is a limit
            return
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = self.mounted / controllers if controllers else self.mounted
            inside = PurePosixPath(path).relative_to("/")
            for group in (inside, *inside.parents):
                yield root / group, bool(controllers)
