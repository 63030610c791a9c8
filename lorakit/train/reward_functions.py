"""Reward functions of one's own, with the signature of TRL's, in a process that can be killed.

    def brevity(completions, references, limit=50, **columns):
        return [float(len(text.split()) <= limit) for text in completions]

A function is called with names it takes: `prompts`, `completions`, `references` (lists of texts),
`completion_ids` (a list of token ids of each completion, its end token included), each column of
the data set (a list), and the options of the recipe. It gives a number for each completion, or None
where it has no opinion. `async def` is one too: what it waits for, it waits for in its process.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lorakit.child.process import CallError, ChildProcess, LostChildError
from lorakit.errors import InputError, RunError
from lorakit.train.reward_source import Signature, find_function, signature_in
from lorakit.train.row_columns import Columns

OnFailure = Literal["error", "skip"]
OWN = ("prompts", "completions", "references", "completion_ids")
SHOWN_CHARACTERS = 120
# Beside what the child has when it is ready: a model that a file loads on import is not counted.
MEMORY_BYTES = 4 << 30
# Calls of a generation that may be ended for their time: enough to find two of 64 completions that
# it hangs for. Where it hangs for all there would be twice as many as there are completions.
MAX_STOPPED = 16
# Of two names that are taken for one: `limt` is `limit`, and `min_words` is not `max_words`.
NEAR = 0.8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """What is to be rewarded: E completions, in the order of their groups.

    Attributes:
        completions, references, prompts: texts.
        completion_ids: tokens of each completion as they were drawn, its end token included.
        columns: of each one's row, {name: value}.
        places: where that row stands: `file:line`.
    """

    completions: Sequence[str]
    references: Sequence[str]
    prompts: Sequence[str]
    completion_ids: Sequence[Sequence[int]]
    columns: Sequence[Mapping[str, Any]]
    places: Sequence[str]

    def argument(self, name: str, indices: Sequence[int]) -> list[Any]:
        """What is handed over under a name; None for a row without that column."""
        if name in OWN:
            values: Sequence[Any] = vars(self)[name]
            return [values[index] for index in indices]
        return [self.columns[index].get(name) for index in indices]

    def names(self) -> list[str]:
        """Of all arguments that there are."""
        found = dict.fromkeys(name for row in self.columns for name in row)
        return [*OWN, *(name for name in found if name not in OWN)]


@dataclass(frozen=True)
class _Failure:
    """Why there is no number."""

    what: str
    trace: str = ""


class RewardFunction:
    """A function that somebody else wrote.

    Args:
        name: `package.module:function` or `path.py:function`.
        options: handed over by name.
        on_failure: "error": stop at the first completion it fails for; "skip": no opinion there.
        seconds: wall time of a call. What fails is called again with half of the completions, down
            to the one that it fails for, or until MAX_STOPPED calls were stopped.

    Raises:
        InputError: there is no such file, module or function; nothing was run.
    """

    def __init__(
        self, name: str, options: Mapping[str, Any], *, on_failure: OnFailure, seconds: float
    ) -> None:
        self.name = name
        self._options = dict(options)
        self._on_failure = on_failure
        self._seconds = seconds
        where, function = find_function(name)
        self._source = where, function
        self._child = ChildProcess(
            f"the process of reward {name!r}",
            Path(__file__).with_name("reward_child.py"),
            [where, function],
            memory_bytes=MEMORY_BYTES,
        )
        self._wanted: Signature | None = None
        # Since it was asked for the scores of a generation: calls that were ended, and who asks.
        self._num_stopped = 0
        self._stop_if_asked: Callable[[], None] = lambda: None

    def check(self, columns: Columns) -> None:
        """Start it, and see that it can be called.

        Args:
            columns: of the data set.

        Raises:
            InputError: it cannot be imported, wants what there is not, or takes no such option.
        """
        try:
            described: dict[str, Any] = self._child.ask(b'{"describe": true}', self._seconds)
        except RunError as error:
            raise InputError(
                f"reward {self.name!r} cannot be loaded: {error} Mend it, or take it out of "
                "grpo.rewards."
            ) from error
        wanted = Signature(**described)
        self._check_call(wanted, columns)
        self._wanted = wanted

    def check_as_written(self, columns: Columns) -> None:
        """The part of `check` that its file says without being run; nothing where that does not
        tell how it is called, as of a function that a decorator changes.

        Raises:
            InputError: see `check`.
        """
        written = signature_in(*self._source)
        if written is not None:
            self._check_call(written, columns)

    def _check_call(self, wanted: Signature, columns: Columns) -> None:
        given = dict.fromkeys([*OWN, *columns.names])
        missing = [name for name in wanted.needs if name not in given | self._options]
        free = [name for name in wanted.takes if name not in given | self._options]
        faults = [f"wants {name!r} by place" for name in wanted.by_place]
        faults += [f"wants {name!r}{_meant(name, columns.names)}" for name in missing]
        faults += [
            f"wants {name!r}, which {columns.gaps[name]} lack (null is a value; an argument with "
            "a default is given None there)"
            for name in wanted.needs
            if name in columns.gaps
        ]
        for name in self._options:
            meant = _meant(name, free)
            if name not in wanted.takes and name not in given and (meant or not wanted.takes_all):
                faults.append(f"takes no {name!r}, which is in its options{meant}")
        faults += [
            f"has {name!r} in its options, which is what every function is given"
            for name in self._options
            if name in given
        ]
        if faults:
            raise InputError(
                f"reward {self.name!r} {', '.join(faults)}; possible: arguments named "
                f"{', '.join(given)}, and options of the recipe. Change the one or the other."
            )

    def scores(
        self, answers: Answers, stop_if_asked: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        """Its rewards.

        Args:
            stop_if_asked: called twice a second at least; what it raises ends its process.

        Returns:
            float64 (E,); NaN where it has no opinion, or failed and is to be skipped.

        Raises:
            RunError: it failed for a completion, which is named.
        """
        if self._wanted is None:
            self.check(Columns(answers.names()))
        self._num_stopped, self._stop_if_asked = 0, stop_if_asked
        values = self._values(answers, range(len(answers.completions)))
        failed = {i: one for i, one in enumerate(values) if isinstance(one, _Failure)}
        if failed:
            first = min(failed)
            log.warning(
                "reward %r failed for %d of %d completions, which it is left out of; first for %s: "
                "it %s",
                self.name,
                len(failed),
                len(values),
                answers.places[first],
                failed[first].what,
            )
        return np.array(
            [math.nan if v is None or isinstance(v, _Failure) else v for v in values], np.float64
        )

    def close(self) -> None:
        """End its process."""
        self._child.close()

    def _values(self, answers: Answers, indices: Sequence[int]) -> list[float | _Failure | None]:
        """The values of some completions, or which of them it fails for."""
        found = self._called(answers, indices)
        if isinstance(found, _Failure) and len(indices) > 1:
            middle = len(indices) // 2
            values = self._values(answers, indices[:middle])
            values += self._values(answers, indices[middle:])
            if not any(isinstance(value, _Failure) for value in values):
                together = _Failure(
                    f"{found.what}, with {len(indices)} completions but not with fewer of them",
                    found.trace,
                )
                return [self._failed(answers, index, together) for index in indices]
            return values
        values = [found] if isinstance(found, _Failure) else found
        return [
            self._failed(answers, index, value) if isinstance(value, _Failure) else value
            for index, value in zip(indices, values, strict=True)
        ]

    def _called(
        self, answers: Answers, indices: Sequence[int]
    ) -> list[float | _Failure | None] | _Failure:
        wanted = self._wanted
        assert wanted is not None
        if self._num_stopped >= MAX_STOPPED:
            return _Failure(f"was not asked: {MAX_STOPPED} calls before were stopped")
        names = answers.names()
        if not wanted.takes_all:
            names = [name for name in names if name in wanted.takes]
        # It says how many completions there are, whether the function looks at them or not.
        request = {
            "arguments": {name: answers.argument(name, indices) for name in names},
            "count": len(indices),
            "options": self._options,
        }
        try:
            answer = self._child.ask(
                json.dumps(request, default=str).encode(),
                self._seconds,
                while_waiting=self._stop_if_asked,
            )
        except CallError as error:
            return _Failure(f"raised {error}", error.trace)
        except LostChildError as error:
            self._num_stopped += 1
            return _Failure(f"was stopped: {error}")
        if "type" in answer:
            return _Failure(f"gave {answer['type']}, no list")
        if "count" in answer:
            return _Failure(f"gave {answer['count']} values for {len(indices)} completions")
        return [_checked(value) for value in answer["values"]]

    def _failed(self, answers: Answers, index: int, failure: _Failure) -> _Failure:
        """What is skipped.

        Raises:
            RunError: nothing is.
        """
        if self._on_failure == "skip":
            return failure
        if failure.trace:
            log.error("%s", failure.trace.rstrip())
        shown = answers.completions[index]
        if len(shown) > SHOWN_CHARACTERS:
            shown = f"{shown[:SHOWN_CHARACTERS]}..."
        raise RunError(
            f"reward {self.name!r} {failure.what}, for the row {answers.places[index]} and the "
            f"completion {shown!r}; possible: a list that has a number or None for each "
            "completion. Mend the function and resume, or set grpo.on_reward_failure to skip."
        )


def _meant(name: str, possible: Sequence[str]) -> str:
    """` (did you mean 'limit'?)`, where one is so near that hardly another thing was meant."""
    near = difflib.get_close_matches(name, possible, n=1, cutoff=NEAR)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _checked(value: Any) -> float | _Failure | None:
    if isinstance(value, dict):
        return _Failure(f"gave {value['type']}, no number")
    if value is not None and not math.isfinite(value):
        return _Failure(f"gave {value}")
    return value
