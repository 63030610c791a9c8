"""What a person can say in a chat besides questions: lines that begin with a slash."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.cli.chat.dialogue import Dialogue
from lorakit.errors import InputError
from lorakit.files import write_atomically

# `//` at the start of a line is a question that begins with a slash.
SLASH = "/"


class LeaveError(Exception):
    """The person asked to leave."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        run: is given the conversations and the rest of the line; returns what to tell the person.
    """

    usage: str
    summary: str
    run: Callable[[Sequence[Dialogue], str], str]


def run_command(line: str, dialogues: Sequence[Dialogue]) -> str:
    """Do what a line that begins with a slash says.

    Returns:
        What to tell the person.

    Raises:
        LeaveError: the conversation is over.
        InputError: no such command, or one that cannot be done.
    """
    name, _, argument = line.removeprefix(SLASH).partition(" ")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean /{near[0]}?" if near else "/help lists the commands."
        raise InputError(
            f"/{name} is no command; {hint} A question that begins with a slash is written //."
        )
    return COMMANDS[name].run(dialogues, argument.strip())


def question_of(line: str) -> str | None:
    """The question in a line; None: it is a command."""
    if line.startswith(SLASH * 2):
        return line[1:]
    return None if line.startswith(SLASH) else line


def _help(dialogues: Sequence[Dialogue], _: str) -> str:
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"{c.usage:<{width}}  {c.summary}" for c in COMMANDS.values()]
    return "\n".join(lines)


def _reset(dialogues: Sequence[Dialogue], _: str) -> str:
    for dialogue in dialogues:
        dialogue.reset(dialogue.system)
    return "the conversation starts anew"


def _system(dialogues: Sequence[Dialogue], text: str) -> str:
    if not text:
        return f"system message: {dialogues[-1].system or 'none'}"
    said = None if text == "-" else text
    for dialogue in dialogues:
        dialogue.reset(said)
    state = "no system message" if said is None else "system message set"
    return f"{state}; the conversation starts anew"


def _undo(dialogues: Sequence[Dialogue], _: str) -> str:
    taken = [dialogue.undo() for dialogue in dialogues][-1]
    return "nothing to take back" if taken is None else f"taken back: {taken.question}"


def _save(dialogues: Sequence[Dialogue], name: str) -> str:
    if not name:
        raise InputError("/save needs a file to write, such as /save talk.jsonl.")
    path = Path(name).expanduser()
    if path.exists():
        raise InputError(f"{name} exists already and is not overwritten. Choose another name.")
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} does not exist. Make it first.")
    messages = dialogues[-1].messages()
    if not any(turn.is_told for turn in dialogues[-1].turns):
        raise InputError("nothing has been said yet, so there is nothing to save.")
    row = json.dumps({"messages": messages}, ensure_ascii=False)
    write_atomically(path, (row + "\n").encode())
    return f"wrote {path}: one row that data.train reads, with the {dialogues[-1].name} answers"


def _exit(dialogues: Sequence[Dialogue], _: str) -> str:
    raise LeaveError


COMMANDS = {
    "help": Command("/help", "these lines", _help),
    "reset": Command("/reset", "forget the conversation", _reset),
    "system": Command("/system [TEXT]", "show or set the system message; - for none", _system),
    "undo": Command("/undo", "take back the last question and its answer", _undo),
    "save": Command("/save FILE", "write the conversation as a row of chat messages", _save),
    "exit": Command("/exit", "leave, as Ctrl-D does", _exit),
}
