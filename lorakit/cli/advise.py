"""`lorakit advise`: fine-tune, retrieve, both or neither, for people who have no data yet."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from lorakit.cli.asking import ask_line
from lorakit.cli.output import AsJson, console, print_json, visible
from lorakit.errors import InputError, InterruptionError
from lorakit.files import write_atomically
from lorakit.plan.advise.questions import (
    BY_NAME,
    Answers,
    Question,
    is_asked,
    missing_questions,
    read_answers,
    whole_answers,
)

if TYPE_CHECKING:
    from lorakit.plan.advise.advice import Advice
    from lorakit.plan.advise.collect import Collected

LARGEST_FILE = 1 << 20


def _help(name: str) -> str:
    question = BY_NAME[name]
    return f"{question.text} One of: {question.possible}." if question.choices else question.text


def command(
    need: Annotated[str | None, typer.Option(metavar="WHAT", help=_help("need"))] = None,
    prompt: Annotated[str | None, typer.Option(metavar="STATE", help=_help("prompt"))] = None,
    cite: Annotated[bool | None, typer.Option("--cite/--no-cite", help=_help("cite"))] = None,
    facts: Annotated[str | None, typer.Option(metavar="PACE", help=_help("facts"))] = None,
    examples: Annotated[str | None, typer.Option(metavar="N", help=_help("examples"))] = None,
    calls: Annotated[str | None, typer.Option(metavar="N", help=_help("calls"))] = None,
    pressure: Annotated[str | None, typer.Option(metavar="WHAT", help=_help("pressure"))] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--no-private", help=_help("private"))
    ] = None,
    hardware: Annotated[str | None, typer.Option(metavar="SIZE", help=_help("hardware"))] = None,
    language: Annotated[str | None, typer.Option(metavar="WHICH", help=_help("language"))] = None,
    measure: Annotated[str | None, typer.Option(metavar="HOW", help=_help("measure"))] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answers by name, YAML or JSON; flags replace them."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the starting recipe; it must not exist."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether to fine-tune, retrieve, do both or neither.

    Asks on a terminal what no flag answers. Needs no data and no model.

    \b
    Example:
      lorakit advise
      lorakit advise --output recipe.yaml
      lorakit advise --answers answers.yaml --examples 800 --json
    """
    flags = {
        "need": need, "prompt": prompt, "cite": cite, "facts": facts, "examples": examples,
        "calls": calls, "pressure": pressure, "private": private, "hardware": hardware,
        "language": language, "measure": measure,
    }  # fmt: skip
    given = {name: value for name, value in flags.items() if value is not None}
    known = read_answers((_from_file(answers) if answers is not None else {}) | given)
    if output is not None:
        _check_output(output)
    asked = bool(missing_questions(known)) and _has_terminal()
    if asked:
        _ask_missing(known)

    from lorakit.plan.advise.advice import advise

    advice = advise(whole_answers(known))
    if output is not None:
        write_atomically(output, advice.recipe.encode())
    if as_json:
        print_json(advice.to_json() | {"output": None if output is None else str(output)})
        return
    show_advice(advice)
    out = console()
    if output is not None:
        out.print(f"\nwrote {output}")
    else:
        out.print("\nThe same again, with a recipe to start from:")
        out.print(f"  {_command_line(advice.answers)} --output recipe.yaml", soft_wrap=True)


def _from_file(path: Path) -> dict[Any, Any]:
    """The answers in a file; JSON is read as the YAML that it is.

    Raises:
        InputError: no such file, no text, or no mapping.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise InputError(f"{str(path)!r} is over 1 MiB: answers are eleven lines.")
        values = yaml.safe_load(data.decode("utf-8"))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} is no YAML or JSON. Write `need: behaviour`.") from None
    if not isinstance(values, dict):
        raise InputError(
            f"{str(path)!r} holds no answers by name. Write lines such as `need: behaviour`; "
            f"possible: {', '.join(BY_NAME)}."
        )
    return values


def _check_output(path: Path) -> None:
    if path.exists():
        raise InputError(
            f"{str(path)!r} exists already and is not overwritten. Choose another --output."
        )
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} does not exist. Make it first.")


def _has_terminal() -> bool:
    """Whether somebody can be asked: what is typed comes from a terminal, and questions show."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask_missing(known: dict[str, Any]) -> None:
    """Ask until every question has an answer, into `known`. Questions go to stderr.

    Ends early where the input ends.

    Raises:
        InterruptionError: Ctrl-C.
    """
    out = Console(stderr=True, highlight=False, markup=False, emoji=False)
    out.print("Answer by number or word; ? says why it is asked, Ctrl-C stops.\n", style="dim")
    try:
        while missing := missing_questions(known):
            known[missing[0].name] = _ask(missing[0], out)
            out.print()
    except EOFError:
        out.print()  # whole_answers says what is missing
    except KeyboardInterrupt:
        out.print()  # the prompt's line
        raise InterruptionError("interrupted; nothing was written", signal.SIGINT) from None


def _ask(question: Question, out: Console) -> str | int | bool:
    out.print(question.text, style="bold")
    for number, (name, meaning) in enumerate(question.choices.items(), start=1):
        out.print(f"  {number}  {name:<11} {meaning}")
    mark = {True: "yes or no", False: question.name}[question.is_yes_or_no]
    while True:
        try:
            typed = ask_line(out, f"{mark}> ")
        except UnicodeDecodeError:
            typed = "\ufffd"
        if typed.strip() == "?":
            out.print(question.why, style="dim")
            continue
        try:
            return question.read(typed)
        except InputError as error:
            out.print(visible(str(error)), style="yellow")


def _command_line(answers: Answers) -> str:
    """The command that gives the same answers."""
    words = ["lorakit", "advise"]
    given = answers.to_json()
    for name, value in given.items():
        if not is_asked(BY_NAME[name], given):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


HEADLINES: Mapping[str, str] = {
    "fine-tune": "Fine-tune.",
    "retrieve": "Retrieve; do not fine-tune.",
    "both": "Both: fine-tune for how to answer, retrieve for what to answer.",
    "neither": "Neither: a good prompt, for now.",
}


def headline(advice: Advice) -> str:
    """The verdict in a sentence, and what is to be collected before tuning where that is all."""
    if advice.then is None:
        return HEADLINES[advice.verdict]
    missing = next(one.missing for one in advice.collect if one.set == "train")
    first = "Retrieve now; collect" if advice.verdict == "retrieve" else "Collect"
    last = " as well" if advice.verdict == "retrieve" else ""
    return f"{first} at least {missing:,} more examples, then fine-tune{last}."


def show_advice(advice: Advice) -> None:
    """The verdict, its reasons by answer, what to collect, and how to split it."""
    out = console()
    out.print(headline(advice), style="bold")
    out.print()
    _show_reasons(advice, out)
    if advice.notes:
        out.print("\nMind", style="bold")
        for note in advice.notes:
            _indented(out, note, 2)
    out.print("\nCollect", style="bold")
    for one in advice.collect:
        out.print(f"  {one.set}: {how_many(one)}")
        _indented(out, one.kind, 4)
        _indented(out, f"({one.source})", 4)
    out.print("\nKeep apart", style="bold")
    for sentence in advice.split:
        _indented(out, sentence, 2)


def _indented(out: Console, text: str, by: int) -> None:
    """A paragraph: broken to the terminal's width, one line where there is none."""
    if out.is_terminal:
        out.print(Padding(text, (0, 0, 0, by)))
    else:
        out.print(" " * by + text)


def _show_reasons(advice: Advice, out: Console) -> None:
    given = advice.answers.to_json()
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for reasons, mark in ((advice.reasons, ""), (advice.overruled, "overruled: ")):
        for reason in reasons:
            said = ", ".join(f"{name}: {_said(given[name])}" for name in reason.answers)
            table.add_row(said, f"{mark}{reason.text} ({reason.source})")
    out.print(table)


def _said(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else value


def how_many(one: Collected) -> str:
    """`500 to 2,000`, and what of it is still to be made."""
    if one.low is None or one.high is None:
        return "all of them"
    told = f"{one.low:,} to {one.high:,}"
    if one.have is None:
        return told
    if one.missing:
        return f"{told}; you have {one.have:,}, so at least {one.missing:,} more"
    return f"{told}; you have {one.have:,}"
