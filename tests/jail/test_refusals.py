"""What the system refuses the jail comes as an error of the run that says what to do."""

from __future__ import annotations

import errno
import os

import pytest

from lorakit.errors import RunError
from lorakit.jail import contained as contained_module
from lorakit.jail.contained import Contained, Limits


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.EAGAIN, "ulimit -u"),
        (errno.ENOMEM, "Free memory"),
        (errno.EIO, "Run fewer at a time"),
    ],
)
def test_a_refusal_at_the_start(number: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(os.listdir("/proc/self/fd"))

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(contained_module, "_pipe", refused)
    with pytest.raises(RunError, match=f"refused .*{os.strerror(number)}.*{said}"):
        Contained(lambda _: ["true"], [b"data"], Limits())
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(RunError, match="bubblewrap is still installed"):
        Contained(lambda _: ["/nowhere/bwrap"], [], Limits())
