"""A chat in a pipe: a line is a question, its answer goes to stdout, nothing else does."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from lorakit.cli.chat.commands import LeaveError, question_of, run_command
from lorakit.cli.chat.dialogue import Dialogue
from lorakit.cli.chat.notes import remarks, sources
from lorakit.cli.output import visible
from lorakit.errors import InputError

log = logging.getLogger(__name__)


def talk_in_lines(
    dialogues: Sequence[Dialogue], lines: Iterable[str], out: TextIO, *, history: bool = False
) -> None:
    """Answer every line.

    Args:
        dialogues: each of them answers; several answers open with their model's name and a colon.
        lines: questions, and commands that begin with a slash. Blank lines are passed over.
        out: where answers go, each followed by a line break and its sources, a line each, if
            documents are looked up; as they are, but that on a terminal control characters are
            shown as symbols.
        history: a line goes on with the conversation; False: each is a conversation of its own.

    Raises:
        InputError: a question that cannot be answered, or an unknown command.
        KeyboardInterrupt: Ctrl-C.
    """

    def write(text: str) -> None:
        out.write(visible(text) if out.isatty() else text)
        out.flush()

    for line in _as_text(lines):
        said = line.rstrip("\r\n")
        if not said.strip():
            continue
        question = question_of(said)
        if question is None:
            try:
                log.info("%s", run_command(said, dialogues))
            except LeaveError:
                return
            continue
        for dialogue in dialogues:
            if not history:
                dialogue.reset(dialogue.system)
            if len(dialogues) > 1:
                write(f"{dialogue.name}: ")
            answer = dialogue.ask(question, write)
            write("\n")
            for source in sources(answer):
                write(f"{source}\n")
            if answer.is_stopped:
                raise KeyboardInterrupt
            for remark in remarks(answer):
                log.info("(%s: %s)", dialogue.name, remark)


def _as_text(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise InputError(
            f"the questions are no {error.encoding} text: {error.reason}. Convert them to it."
        ) from error
