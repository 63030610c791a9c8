"""Walls of the jail, and what must change in bwrap's arguments for each to be missing."""

from __future__ import annotations

from collections.abc import Callable


def without(*options: str) -> Callable[[list[str]], list[str]]:
    """Take an option, and what belongs to it, away."""

    def change(arguments: list[str]) -> list[str]:
        for start in range(len(arguments)):
            if arguments[start : start + len(options)] == list(options):
                return arguments[:start] + arguments[start + len(options) :]
        raise AssertionError(f"{options} are not there")

    return change


def with_also(*options: str) -> Callable[[list[str]], list[str]]:
    def change(arguments: list[str]) -> list[str]:
        # Before the root becomes read-only; of contradicting options the later one counts.
        place = next(at for at in range(len(arguments)) if arguments[at : at + 2] == ROOT)
        return [*arguments[:place], *options, *arguments[place:]]

    return change


def all_but(name: str) -> Callable[[list[str]], list[str]]:
    """Every namespace is new but one."""
    kept = [f"--unshare-{one}" for one in ("ipc", "pid", "net", "uts", "cgroup") if one != name]
    return lambda arguments: kept + without("--unshare-all")(arguments)


ROOT = ["--remount-ro", "/"]
WALLS = {
    "capabilities": with_also("--cap-add", "ALL"),
    "environment": with_also("--setenv", "SECRET", "x"),
    "files to read": with_also("--ro-bind", "/proc", "/proc"),
    "files to write": with_also("--tmpfs", "/w"),
    "root": without(*ROOT),
    "user namespaces": without("--disable-userns"),
    "process numbers": all_but("pid"),
}
