"""`lorakit check`: does the data train what it should, before anything is trained."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from lorakit.cli.output import (
    AsJson,
    HtmlPage,
    Overrides,
    RecipePath,
    check_html,
    console,
    print_json,
    stdout_for_results,
    visible,
)
from lorakit.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorakit.data.examples import Example
    from lorakit.lint.check import CheckReport

SEVERITY_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
# Brackets as well as colour: the difference must survive a pipe and colour blindness.
TRAINED_MARKS = ("\u27e6", "\u27e7")  # white square brackets


def command(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nothing changes it)
    as_json: AsJson = False,
    show: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Examples to show, trained tokens marked: 1; on the page 3."
        ),
    ] = None,
    html: HtmlPage = None,
) -> None:
    """Read a recipe's data and say what would be trained. Trains nothing.

    Exits 1 when a finding is an error.

    \b
    Example:
      lorakit check recipe.yaml
      lorakit check recipe.yaml --show 5
      lorakit check recipe.yaml --json
      lorakit check recipe.yaml --html check.html
    """
    settings = load_recipe(recipe, overrides)
    check_html(html)
    with stdout_for_results():
        from lorakit.lint.check import check

        report = check(settings)
        if html is not None:
            _write_page(report, settings, show, source=recipe, output=html)
    if as_json:
        print_json(report.to_json())
    else:
        show_check(report, 1 if show is None else show, is_policy=settings.train.method == "grpo")
    if any(finding.severity == "error" for finding in report.findings):
        raise typer.Exit(1)


def _write_page(
    report: CheckReport, recipe: Recipe, show: int | None, *, source: Path, output: Path
) -> None:
    from lorakit.report.check_page import NUM_EXAMPLES, check_facts, write_check_page

    facts = check_facts(
        report.sets,
        report.findings,
        report.tokenizer,
        max_length=recipe.data.max_length,
        num_examples=NUM_EXAMPLES if show is None else show,
        silenced=report.silenced,
    )
    write_check_page(facts, recipe, source=source, output=output)


def show_check(report: CheckReport, num_examples: int, *, is_policy: bool = False) -> None:
    """Rows and tokens of every set, the findings, and examples of what is trained, in words.

    Args:
        is_policy: training rows are questions, of whose answers nothing is trained.
    """
    from lorakit.data.named_sets import title_of
    from lorakit.data.row_use import TRAINED, row_use
    from lorakit.data.silence import silenced_in_words
    from lorakit.recipe.warm_start import TRAIN_SET

    out, use = console(), row_use(is_policy=is_policy)
    for name, prepared in report.sets.items():
        tokens, trained = prepared.examples.lengths.sum(), prepared.examples.trained_lengths.sum()
        share = (use if name == "train" else TRAINED).share
        title = title_of(report.sets, name)
        out.print(
            f"{title}: {prepared.read} rows read, {prepared.kept} kept, "
            f"{prepared.dropped} dropped; {tokens:,} tokens, {trained:,} {share}"
        )
    for finding in report.findings:
        line = Text(f"{finding.severity}: ", style=SEVERITY_COLOURS[finding.severity])
        where = f" ({finding.where})" if finding.where else ""
        line.append(visible(f"{finding.message}{where}"), style="none")
        out.print(line.append(f" [{finding.id}]", style="dim"))
    if report.silenced:
        out.print(f"silenced by check.silence: {silenced_in_words(report.silenced)}")
    for name, one_use in (("train", use), (TRAIN_SET, TRAINED)):
        if name not in report.sets:
            continue
        prepared, legend = report.sets[name], one_use.legend
        for index in range(min(num_examples, len(prepared.examples))):
            out.print(f"\nexample {index + 1} of {name}; {''.join(TRAINED_MARKS)} marks {legend}")
            out.print(marked(report.tokenizer, prepared.examples[index]))


def marked(tokenizer: PreTrainedTokenizerBase, example: Example) -> Text:
    """The example's text with its trained tokens bracketed and coloured, stop tokens included."""
    from lorakit.data.pieces import pieces_of

    text = Text()
    for trained, pieces in groupby(pieces_of(tokenizer, example), lambda piece: piece.trained):
        joined = visible("".join(piece.text for piece in pieces))
        if trained:
            text.append(f"{TRAINED_MARKS[0]}{joined}{TRAINED_MARKS[1]}", style="green")
        else:
            text.append(joined, style="dim")
    return text
