"""No pattern that meets text of users takes more than linear time on it, whatever stands there."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType, ModuleType
from typing import Any

import pytest
import regex

import lorakit.data.free_text
import lorakit.data.variants
import lorakit.lint
import lorakit.retrieve
import lorakit.tasks

ROOMS = (
    lorakit.lint,
    lorakit.data.free_text,
    lorakit.data.variants,
    lorakit.retrieve,
    lorakit.tasks,
)
SIZE = 100_000
SECONDS = 2.0  # of processor time; what is linear takes hundredths
REPEATED = (
    *("a", "7", " ", "\n", "<", "{", '"', "-", ".", "\u6f22", "A b ", "a@", "1,", " \n"),
    *("\\(", "\\[", "\\boxed{", "'a ", "[1 ,", "\u201c", "\u201ea", "\xaba", "\u300c", "\u2018a"),
    *("eyJ-", "password=", "a://b:"),
)
BEGUN = ("# ", "i ", "</s>", "[1", "ssn ")  # and then blanks


def patterns() -> dict[str, Any]:
    """{module.NAME: every compiled pattern in it}, those in containers too."""
    return {
        f"{module.__name__}.{name}": value
        for module in itertools.chain.from_iterable(map(_modules, ROOMS))
        for name, value in _leaves(vars(module).items())
        if isinstance(value, (re.Pattern, regex.Pattern))
    }


def _modules(room: ModuleType) -> Iterator[ModuleType]:
    yield room
    for found in pkgutil.walk_packages(getattr(room, "__path__", ()), f"{room.__name__}."):
        yield importlib.import_module(found.name)


def _leaves(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    for name, value in items:
        if str(name).startswith("__"):
            continue
        if isinstance(value, dict):
            yield from _leaves((f"{name}[{key!r}]", one) for key, one in value.items())
        elif isinstance(value, (list, tuple)):
            yield from _leaves((f"{name}[{key}]", one) for key, one in enumerate(value))
        else:
            yield str(name), value


class _TooLong(BaseException):
    """Processor time is over."""


def _over(number: int, frame: FrameType | None) -> None:
    raise _TooLong


def seconds(pattern: Any, text: str, limit: float = SECONDS) -> float:
    """Processor time of finding all of it; infinite beyond the limit."""
    kept = signal.signal(signal.SIGVTALRM, _over)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit)
    began = time.process_time()
    try:
        for _ in pattern.finditer(text):
            pass
        return time.process_time() - began
    except _TooLong:
        return float("inf")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, kept)


def test_what_is_quadratic_is_caught() -> None:
    assert seconds(regex.compile(r"\n\s*x"), "\n" * SIZE, limit=0.2) > SECONDS
    assert seconds(regex.compile(r"\n[ \t]*x"), "\n" * SIZE, limit=0.2) < SECONDS


@pytest.mark.parametrize("name", patterns())
def test_time_of_a_pattern_is_linear(name: str) -> None:
    pattern = patterns()[name]
    slow = [piece for piece, text in _hostile() if seconds(pattern, text) > SECONDS]
    assert slow == []


def _hostile() -> Iterator[tuple[str, str]]:
    for piece in REPEATED:
        half = piece * (SIZE // 2 // len(piece))
        yield piece, f"{half}x{half}x"  # at the beginning, and after and before something else
    for begun in BEGUN:
        yield begun, begun + " " * SIZE
