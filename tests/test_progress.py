"""Bars: silent where nobody watches, one below the other where one piece of work is in another."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest
from rich.console import Console

from lorakit import progress

# What puts the cursor on another line or at the start of one, and every other control sequence.
MOVES = re.compile(r"\n|\r|\x1b\[[0-9]*A")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal is sent; bars are shown at once."""
    sent = io.StringIO()
    monkeypatch.setattr(progress, "SHOW_AFTER_SECONDS", -1.0)
    monkeypatch.setattr(
        progress, "Console", lambda file: Console(file=sent, force_terminal=True, width=100)
    )
    return sent


def test_a_bar_in_another_is_below_it(screen: io.StringIO) -> None:
    with progress.bar("training", 3) as outer:
        outer.advance(facts="loss 1.0")
        for _ in progress.track(range(4), "validating", 4):
            time.sleep(0.2)  # the screen is drawn ten times a second
        outer.advance()
    lines = [ESCAPES.sub("", line) for line in MOVES.split(screen.getvalue())]
    assert any("training" in line for line in lines)
    assert any("validating" in line for line in lines)
    assert not any("training" in line and "validating" in line for line in lines)
    before = len(screen.getvalue())
    with progress.bar("merging", 2) as later:
        later.advance()
    assert "merging" in screen.getvalue()[before:]
    assert "training" not in screen.getvalue()[before:]


def test_an_error_inside_removes_the_bars(screen: io.StringIO) -> None:
    with pytest.raises(ValueError, match="x"), progress.bar("training", 3) as outer:
        outer.advance()
        for _ in progress.track(range(4), "validating", 4):
            raise ValueError("x")
    before = len(screen.getvalue())
    with progress.bar("merging", 2) as later:
        later.advance()
    assert "training" not in screen.getvalue()[before:]


def test_outside_a_terminal_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SHOW_AFTER_SECONDS", -1.0)
    assert not progress.bars_are_shown()
    assert list(progress.track(iter("ab"), "reading")) == ["a", "b"]
    with progress.bar("training", 3) as outer:
        outer.advance()
        print("note", file=sys.stderr)
    assert capsys.readouterr() == ("", "note\n")
