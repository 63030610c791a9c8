"""`lorakit compare`: was fine-tuning the right tool? Five ways to answer, measured."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lorakit.cli.output import (
    AsJson,
    HtmlPage,
    Overrides,
    RecipePath,
    check_html,
    console,
    print_json,
    show_lines,
    stdout_for_results,
    visible,
)
from lorakit.recipe import Recipe, load_recipe
from lorakit.run_folder import RunFolder, find_run, finished_run

if TYPE_CHECKING:
    from lorakit.compare.ways import WaysCompared

log = logging.getLogger(__name__)


def command(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nothing changes it)
    documents: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="File or folder to retrieve from (compare.documents)."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A finished run; default: output.dir, trained if empty."),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A price table of your own.")
    ] = None,
    html: HtmlPage = None,
    as_json: AsJson = False,
) -> None:
    """Compare prompt, few-shot, retrieval, tuned, tuned + retrieval.

    On the recipe's held-out questions: quality with intervals, tokens, latency, cost, set-up, and
    the way that follows. Where the recipe's run folder holds no run, it is trained first.

    \b
    Example:
      lorakit compare recipe.yaml --documents guidelines/
      lorakit compare recipe.yaml --documents guidelines/ --run runs/r32 --json
      lorakit compare recipe.yaml --set compare.calls=1000000 --set compare.margin=0.02
    """
    check_html(html)
    given = {"documents": documents, "prices": prices}
    # As a JSON string, which YAML takes as it is whatever the path holds.
    extra = [
        f"compare.{name}={json.dumps(str(path))}"
        for name, path in given.items()
        if path is not None
    ]
    settings = load_recipe(recipe, [*overrides, *extra])
    with stdout_for_results():
        from lorakit.compare.ways import compare_ways

        compared = compare_ways(settings, _trained(settings) if run is None else run)
        _write_pages(compared.run, html)
    if as_json:
        print_json(compared.to_json())
    else:
        show_comparison(compared)


def _write_pages(run: RunFolder, html: Path | None) -> None:
    """The page beside compare.json, and where it was asked for."""
    from lorakit.report.ways_page import write_ways_page

    for output in {run.compare_page, html or run.compare_page}:
        write_ways_page(run.compare, run.compare_answers, output)


def _trained(recipe: Recipe) -> Path:
    """The recipe's run folder; what is not trained yet is trained now."""
    run = RunFolder(Path(recipe.output.dir).expanduser())
    if run.recipe.is_file():
        finished_run(run.path)  # says how to finish one that is not
    else:
        find_run(recipe, resume=False)  # refuses a folder that holds something else
        from lorakit.compare.comparable import check_comparable
        from lorakit.finetune import finetune

        check_comparable(recipe)  # training may take hours
        log.info("no run in %s: training it first; --run names a finished one", run.path)
        finetune(recipe)
    return run.path


def show_comparison(compared: WaysCompared) -> None:
    """The table, the verdict and the numbers it rests on, in words."""
    told = compared.to_json()
    out = console()
    out.print(
        f"{told['examples']} questions of {told['set']}, judged by {told['primary']} "
        f"({'higher' if told['higher_is_better'][told['primary']] else 'lower'} is better)"
    )
    out.print(_table(told))
    for way, why in told["not_measured"].items():
        out.print(visible(f"not measured: {way}: {why}"))
    for note in told["notes"]:
        out.print(visible(f"note: {note}"))
    for line in verdict_in_words(told):
        out.print(visible(line))
    run = compared.run
    show_lines(
        {
            "numbers": str(run.compare),
            "answers": str(run.compare_answers),
            "page": str(run.compare_page),
        }
    )


def _table(told: dict[str, Any]) -> Table:
    from lorakit.report.words import cost

    unit = told["cost_basis"]["unit"]
    columns = (
        "way",
        told["primary"],
        "against base",
        "tokens",
        "seconds (p95)",
        f"{unit} per 1,000",
        f"set-up {unit}",
    )
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for way in told["ways"].values():
        quality = way["metrics"][told["primary"]]
        change = quality["against_base"]
        latency = way["latency_seconds"]
        table.add_row(
            way["title"],
            f"{quality['mean']:.3f} ({_span(quality['interval'])})",
            "" if change is None else f"{change['difference']:+.3f} ({_span(change['interval'])})",
            f"{way['tokens']['prompt']:,.0f} + {way['tokens']['answer']:,.0f}",
            f"{latency['median']:.3g} ({latency['p95']:.3g})",
            f"{way['cost_per_1000_calls']:.3g}",
            cost(way["setup"]["cost"]),
        )
    return table


def _span(interval: list[float]) -> str:
    low, high = interval
    return f"{low:.3f} to {high:.3f}"


def verdict_in_words(told: dict[str, Any]) -> list[str]:
    """The recommendation of compare.json, for people."""
    from lorakit.compare.recommend import NONE_GOOD, NOTHING_TO_REPAY, TIE, never_repaid

    titles = {name: way["title"] for name, way in told["ways"].items()}
    found = told["recommendation"]
    by = f"by {told['primary']} and the cost of {told['calls']:,} calls"
    if found["verdict"] == NONE_GOOD:
        lines = [f"verdict: {NONE_GOOD}; {told['primary']} is 0 for {', '.join(titles.values())}"]
    elif found["way"] is None:
        names = ", ".join(titles[name] for name in found["candidates"])
        lines = [f"verdict: {found['verdict']}; between {names}"]
    elif found["verdict"] == TIE:
        names = " and ".join(titles[name] for name in found["candidates"])
        lines = [f"verdict: a tie of {names} {by}; {titles[found['way']]} is the simplest"]
    else:
        lines = [f"verdict: take {titles[found['way']]}, {by}"]
    lines += [f"  {reason}" for reason in found["reasons"]]
    if len(found["by_calls"]) > 1:
        steps = [f"from {step['from']:,} calls {titles[step['way']]}" for step in found["by_calls"]]
        lines.append(f"  cheapest of those good enough: {', '.join(steps)}")
    repaid = told["break_even"]
    if repaid["against"] is None and found["verdict"] != NONE_GOOD:
        lines.append(f"  {NOTHING_TO_REPAY}")
    for name, calls in repaid["calls"].items():
        against = titles[repaid["against"]]
        lines.append(
            f"  {never_repaid(titles[name], against)}"
            if calls is None
            else f"  {titles[name]} has cost less than {against} from {calls:,} calls on"
        )
    lines.append(f"  a call: {told['cost_basis']['call']}")
    lines.append(f"  set-up: {told['cost_basis']['setup']}; people and data are not counted")
    return lines
