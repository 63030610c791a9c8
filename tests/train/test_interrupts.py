"""What the first signal says, while it waits for the end of a step."""

from __future__ import annotations

import logging
import signal

import pytest

from lorakit.train.interrupts import SIGNALS, interrupts


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])  # the second is --quiet
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_says_what_comes(
    number: signal.Signals,
    level: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    told = f"\n{number.name}: stopping after this step; a second one ends it at once, unsaved\n"
    with caplog.at_level(level, logger="lorakit"), interrupts() as caught:
        signal.raise_signal(number)
        assert caught.received is number
    assert capfd.readouterr().err == (told if level == logging.INFO else "")
