"""Every error lorakit raises on purpose, and the exit code the command line gives it.

    LorakitError
    |-- InputError (also ValueError)      what the user gave cannot work        exit 2
    |   |-- RecipeError                   recipe file, key or value
    |   |-- DataError                     rows, formats, chat templates, tokens
    |   |-- ModelError                    base model folder, config, weights, tokenizer
    |   `-- AdapterError                  adapter config or adapter files
    `-- RunError (also RuntimeError)      the input was fine, the run was not   exit 1
        |-- InterruptionError             a signal stopped it; exit 128 and its number
        |-- NonFiniteError                a loss or gradient became NaN or infinite
        |-- CheckpointError               no whole checkpoint, or one of another run
        `-- VerificationError             what was written differs from what was trained

A message has three parts: what was given, what is possible, what to do. A new class is added
only where a caller must tell it apart; a new message is not a new class.
"""

from __future__ import annotations

from collections.abc import Mapping


def in_one_line(error: BaseException) -> str:
    """What another library's error says first, to be quoted within a sentence of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return first.removeprefix("Got: ").rstrip(" .")


def kind_of(value: object) -> str:
    """What a value is in the words of JSON, to be said after "is" or "holds": `an object`,
    `a number`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for kinds, name in _KINDS:
        if isinstance(value, kinds):
            return name
    return f"a value of type {type(value).__name__}"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (Mapping, "an object"),
    (str, "a text"),
    ((list, tuple), "a list"),
    ((int, float), "a number"),
)


def printable(text: str) -> str:
    """Without what would move a terminal's cursor or colour it."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


class LorakitError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line exits with."""

    exit_code = 1


class InputError(LorakitError, ValueError):
    """What was given cannot work; nothing was changed."""

    exit_code = 2


class RecipeError(InputError):
    """The recipe, or a value given to `--set`, is wrong."""


class DataError(InputError):
    """Rows cannot be read, or cannot be turned into examples that train something."""


class ModelError(InputError):
    """The base model's folder, config, weights or tokenizer cannot be used."""


class AdapterError(InputError):
    """An adapter config or an adapter file does not fit the model."""


class RunError(LorakitError, RuntimeError):
    """The input was fine, but the run or a check of it failed."""


class InterruptionError(RunError):
    """A signal stopped what was going on; `exit_code` is the shell's, 143 or 130."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class NonFiniteError(RunError):
    """A loss or a gradient became NaN or infinite; the weights were not touched by it."""


class CheckpointError(RunError):
    """No whole checkpoint is left, or it belongs to another run."""


class VerificationError(RunError):
    """A written model or adapter does not compute what was trained."""
