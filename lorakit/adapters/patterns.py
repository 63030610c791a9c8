"""Name patterns with a time limit: an adapter_config.json is untrusted, and a regex can run for
years.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable

import regex

from lorakit.errors import AdapterError

MAX_PATTERN_CHARACTERS = 10_000
SECONDS_PER_PATTERN = 1.0


class NamePattern:
    """A regular expression over module names, as PEFT reads it.

    Args:
        pattern: in Python's syntax.
        field: the option it came from, for messages.

    Raises:
        AdapterError: it is no regular expression, or longer than 10,000 characters.
    """

    def __init__(self, pattern: str, field: str) -> None:
        self.text = pattern
        self.field = field
        self._seconds_left = SECONDS_PER_PATTERN
        if len(pattern) > MAX_PATTERN_CHARACTERS:
            raise AdapterError(
                f"{field} is a pattern of {len(pattern)} characters; at most "
                f"{MAX_PATTERN_CHARACTERS} are possible. Give a list of module names instead."
            )
        try:
            re.compile(pattern)  # what PEFT could not read is refused, though `regex` might
            self._whole = regex.compile(pattern)
            self._ending = regex.compile(rf"(.*\.)?({pattern})$")
            self._list = regex.compile(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.")
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            raise AdapterError(
                f"{field} {pattern!r} is no regular expression ({error}). Fix it, or give a list "
                "of module names."
            ) from error

    def matches_whole(self, name: str) -> bool:
        """As `target_modules` matches: `re.fullmatch(pattern, name)`."""
        return self._timed(self._whole.fullmatch, name) is not None

    def matches_ending(self, name: str) -> bool:
        """As `rank_pattern` matches: `re.match(rf"(.*\\.)?({pattern})$", name)`."""
        return self._timed(self._ending.match, name) is not None

    def number_behind(self, name: str) -> int | None:
        """As `layers_pattern` matches: the number in
        `re.match(rf"(?:^|.*?\\.){pattern}\\.(?P<idx>\\d+)\\.", name)`.
        """
        found = self._timed(self._list.match, name)
        return None if found is None or found["idx"] is None else int(found["idx"])

    def _timed(
        self, match: Callable[..., regex.Match[str] | None], name: str
    ) -> regex.Match[str] | None:
        started = time.monotonic()
        try:
            found = match(name, timeout=max(self._seconds_left, 0.001))
        except TimeoutError as error:
            raise AdapterError(
                f"{self.field} {self.text!r} takes longer than {SECONDS_PER_PATTERN:g} s to "
                "match; nested repetitions such as (a+)+ do that. Simplify it, or give a list of "
                "module names."
            ) from error
        self._seconds_left -= time.monotonic() - started
        return found


def matches_list(name: str, items: Iterable[str]) -> bool:
    """As PEFT matches a list: the name equals an item or ends with `"." + item`."""
    return any(name == item or name.endswith(f".{item}") for item in items)


def is_below(name: str, parents: Collection[str]) -> bool:
    """Whether a module or parameter is one of `parents`, or part of one."""
    while name:
        if name in parents:
            return True
        name = name.rpartition(".")[0]
    return False
