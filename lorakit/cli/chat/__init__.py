"""`lorakit chat`: talk to what was trained, beside its base if asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorakit.cli.output import RunFolder, stdout_for_results
from lorakit.errors import InputError
from lorakit.run_folder import finished_run

if TYPE_CHECKING:
    from lorakit.cli.chat.dialogue import Dialogue, Documents
    from lorakit.generate import SamplingSettings
    from lorakit.ship.serving import ServedRun

TEMPERATURE, SEED = 0.7, 0


def command(
    run: RunFolder,
    base: Annotated[
        bool, typer.Option("--base", help="Let the base answer too, beside the tuned model.")
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="System message; default: the recipe's data.system. '' for none."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="F", help=f"Of sampling; 0 is greedy.  [default: {TEMPERATURE}]"),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="The most tokens of an answer.")
    ] = 256,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help=f"Of sampling.  [default: {SEED}]"),
    ] = None,
    history: Annotated[
        bool,
        typer.Option("--history", help="In a pipe: each line continues the one before."),
    ] = False,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Always the most probable token.")
    ] = False,
    documents: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="File or folder that is searched for each question."),
    ] = None,
) -> None:
    """Talk to a run's model, beside its base if asked.

    As it was trained: its adapter, its chat template, its end tokens.

    In a terminal: /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves. In a pipe every
    line is a question of its own, and its answer goes to stdout.

    \b
    Example:
      lorakit chat runs/recipe
      lorakit chat runs/recipe --base --greedy
      lorakit chat runs/recipe --documents guidelines/
      echo "What is asthma?" | lorakit chat runs/recipe --greedy
    """
    if greedy and temperature is not None:
        raise InputError("--greedy and --temperature exclude each other. Give one of them.")
    heat = 0.0 if greedy else TEMPERATURE if temperature is None else temperature
    if heat == 0 and seed is not None:
        raise InputError("--seed takes no effect where nothing is drawn. Remove it or --greedy.")
    with stdout_for_results():
        from lorakit.cli.chat.lines import talk_in_lines
        from lorakit.cli.chat.terminal import TerminalChat
        from lorakit.generate import SamplingSettings
        from lorakit.ship.serving import load_run

        settings = SamplingSettings(
            max_new_tokens=max_new_tokens, temperature=heat, seed=SEED if seed is None else seed
        )
        searched = None if documents is None else _documents(run, documents)
        served = load_run(run)
        dialogues = open_dialogues(served, settings, base=base, system=system, documents=searched)
    in_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if in_terminal and history:
        raise InputError("--history is for pipes; a terminal's chat goes on by itself. Remove it.")
    if in_terminal:
        TerminalChat(dialogues, title=_title(served, settings)).run()
    else:
        talk_in_lines(dialogues, sys.stdin, sys.stdout, history=history)


def open_dialogues(
    served: ServedRun,
    settings: SamplingSettings,
    *,
    base: bool,
    system: str | None = None,
    documents: Documents | None = None,
) -> list[Dialogue]:
    """A conversation with the tuned model, after one with its base if asked.

    Args:
        system: the system message; None: that of the training, "": none.
        documents: looked up for each question.
    """
    from lorakit.cli.chat.dialogue import Dialogue

    said = served.recipe.data.system if system is None else system
    names = ("base", "tuned") if base else ("tuned",)
    return [
        Dialogue(
            served.model,
            served.tokenizer,
            settings,
            name=name,
            with_adapter=name == "tuned",
            system=said or None,
            documents=documents,
        )
        for name in names
    ]


def _documents(run: Path, source: Path) -> Documents:
    """The documents, cut and put into prompts as the run's recipe says in `compare`."""
    from lorakit.cli.chat.dialogue import Documents
    from lorakit.retrieve.prompt import DOCUMENTS_PROMPT
    from lorakit.retrieve.retriever import Retriever

    wanted = finished_run(run)[1].compare
    retriever = Retriever.from_path(
        source,
        chunk_characters=wanted.chunk_characters,
        overlap_characters=wanted.overlap_characters,
        text_column=wanted.text_column,
    )
    return Documents(retriever, wanted.top_k, wanted.prompt or DOCUMENTS_PROMPT)


def _title(served: ServedRun, settings: SamplingSettings) -> str:
    base = served.recipe.base
    stored = "" if base.quantization == "none" else f" ({base.quantization})"
    drawn = f"temperature {settings.temperature:g}" if settings.temperature else "greedy"
    return f"{served.run.path} on {base.model}{stored}, {drawn}"
