"""A chat in a terminal: line editing, answers as they come, two models side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lorakit.cli.chat.commands import COMMANDS, LeaveError, question_of, run_command
from lorakit.cli.chat.dialogue import Answer, Dialogue
from lorakit.cli.chat.notes import remarks, sources, speed
from lorakit.cli.output import console, visible
from lorakit.errors import InputError

# Two columns of prose need about so much.
WIDE = 100
PROMPT = "you> "


class TerminalChat:
    """The conversation of a person with one model, or with two.

    Args:
        dialogues: the models, in the order they answer.
        title: what is being talked to.
    """

    def __init__(self, dialogues: Sequence[Dialogue], *, title: str) -> None:
        self._dialogues = dialogues
        self._title = title
        self._out = console()

    def run(self) -> None:
        """Talk until the person leaves."""
        _edit_lines()
        self._out.print(visible(self._title), style="bold")
        self._note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves")
        while True:
            try:
                line = self._read()
            except EOFError:
                self._out.print()
                return
            except KeyboardInterrupt:
                self._note("\n(Ctrl-D or /exit leaves)")
                continue
            except UnicodeDecodeError as error:
                self._note(f"(what was typed is no {error.encoding} text)")
                continue
            if not line.strip():
                continue
            try:
                self._take(line.strip())
            except LeaveError:
                return
            except KeyboardInterrupt:  # before the answer began
                self._note("(stopped)")
            except InputError as error:
                self._out.print(visible(str(error)), style="yellow")

    def _read(self) -> str:
        """One question; a line that ends with a backslash goes on in the next."""
        self._out.print()
        lines = [self._input(PROMPT)]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1].removesuffix("\\")
            lines.append(self._input(" " * len(PROMPT)))
        return "\n".join(lines)

    def _input(self, prompt: str) -> str:
        if self._out.no_color or self._out.is_dumb_terminal:
            return input(prompt)
        # \001 and \002 tell readline which characters take no room.
        return input(f"\001\033[1;36m\002{prompt}\001\033[0m\002")

    def _take(self, line: str) -> None:
        question = question_of(line)
        if question is None:
            self._note(run_command(line, self._dialogues))
        elif len(self._dialogues) > 1 and self._out.width >= WIDE:
            self._answer_in_columns(question)
        else:
            self._answer_below(question)

    def _answer_below(self, question: str) -> None:
        """One answer after the other."""
        for number, dialogue in enumerate(self._dialogues):
            if number:
                self._out.print()
            if len(self._dialogues) > 1:
                self._out.print(dialogue.name, style="bold")
            answer = dialogue.ask(question, _write)
            _write("\n")
            self._remark(answer)

    def _answer_in_columns(self, question: str) -> None:
        """Side by side; what does not fit the screen is shown once both are done."""
        texts = {dialogue.name: "" for dialogue in self._dialogues}
        answers = []
        with Live(columns(texts), console=self._out, refresh_per_second=10) as live:
            for dialogue in self._dialogues:

                def grow(piece: str, name: str = dialogue.name) -> None:
                    texts[name] += piece
                    live.update(columns(texts))

                answers.append(dialogue.ask(question, grow))
        for dialogue, answer in zip(self._dialogues, answers, strict=True):
            self._remark(answer, f"{dialogue.name}: ")

    def _remark(self, answer: Answer, name: str = "") -> None:
        for source in sources(answer):
            self._out.print(visible(source), style="cyan")
        self._note(f"{name}({'; '.join([*remarks(answer), speed(answer)])})")

    def _note(self, text: str) -> None:
        self._out.print(visible(text), style="dim")


def columns(texts: dict[str, str]) -> Table:
    """{name: text} side by side, in columns of equal width."""
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 3, 0, 0))
    for name in texts:
        table.add_column(name, ratio=1, overflow="fold", header_style="bold")
    table.add_row(*(Text(visible(text)) for text in texts.values()))
    return table


def show_side_by_side(out: Console, texts: dict[str, str]) -> None:
    """{name: text} as columns where there is room, otherwise one below the other."""
    if out.width >= WIDE and out.is_terminal:
        out.print(columns(texts))
        return
    for name, text in texts.items():
        out.print(name, style="bold")
        out.print(Text(visible(text)))


def _write(piece: str) -> None:
    sys.stdout.write(visible(piece))
    sys.stdout.flush()


def _edit_lines() -> None:
    """Arrow keys, history and completion of commands, where the system has them."""
    try:
        import readline
    except ImportError:  # Windows, whose console edits lines itself
        return
    names = [f"/{name}" for name in COMMANDS]

    def complete(text: str, state: int) -> str | None:
        found = [name for name in names if name.startswith(text)] if text else []
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" \t\n")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
