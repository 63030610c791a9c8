"""One page for several runs: what was set differently, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.errors import InputError
from lorakit.report.curves import draw_curve, overlaid_curves
from lorakit.report.evaluation_files import Change
from lorakit.report.files import RunFiles, read_run
from lorakit.report.forest import Forest, ForestRow, draw_forest, is_score, unscored_metrics
from lorakit.report.numbers import facts_of
from lorakit.report.order import in_order
from lorakit.report.pairs import pairs_of
from lorakit.report.recipes import differing_settings
from lorakit.report.render import render, write_page
from lorakit.report.svg import RUNS
from lorakit.report.verdicts import SetVerdict, set_verdicts
from lorakit.report.words import capital, listed, metric_name, set_name

OUTPUT = Path("report.html")
SECTIONS = (
    ("runs", "Runs"),
    ("settings", "Settings"),
    ("results", "Results"),
    ("pairs", "Run against run"),
    ("costs", "Costs"),
    ("training", "Training"),
)


@dataclass(frozen=True)
class Column:
    """One run of the comparison; `series` is its colour, `letter` its short name."""

    letter: str
    series: str
    run: RunFiles
    verdicts: dict[str, SetVerdict]


@dataclass(frozen=True)
class ResultRow:
    """One metric of one set: a Change per run, None where it was not measured."""

    set: str
    metric: str
    changes: list[Change | None]


def write_comparison(paths: Sequence[Path], output: Path | None = None) -> Path:
    """Make one page of several runs.

    Args:
        paths: the run folders, at least two; the first is what the others are held against.
        output: where the page goes; None: `report.html` in the working directory, which must not
            exist. A page that lorakit wrote is replaced where it is named.

    Raises:
        InputError: no run folder, one given twice, too many, or a file that would be overwritten.
        RunError: a file of a run is damaged.
    """
    _check_runs(paths)
    if output is None and OUTPUT.exists():
        raise InputError(
            f"{str(OUTPUT)!r} exists and is not overwritten. Name a file with --output; one that "
            "lorakit wrote is replaced if it is named."
        )
    written = OUTPUT if output is None else output
    write_page(written, comparison_page([read_run(path) for path in paths]))
    return written


def _check_runs(paths: Sequence[Path]) -> None:
    resolved = [path.resolve() for path in paths]
    repeated = [str(path) for path in paths if resolved.count(path.resolve()) > 1]
    if repeated:
        raise InputError(f"{repeated[0]!r} is given more than once. Name each run once.")
    if len(paths) > len(RUNS):
        raise InputError(
            f"{len(paths)} runs were given; a page holds at most {len(RUNS)}. Leave some out."
        )


def comparison_page(runs: Sequence[RunFiles]) -> str:
    """The HTML of several runs."""
    columns = [
        Column(chr(ord("A") + place), series, run, {one.name: one for one in set_verdicts(run)})
        for place, (series, run) in enumerate(zip(RUNS, runs, strict=False))
    ]
    recipes = [run.recipe for run in runs if run.recipe is not None]
    logged = [(one.letter, one.series, one.run.metrics) for one in columns if one.run.metrics]
    return render(
        "comparison.html.jinja",
        title=f"{len(runs)} runs compared: lorakit report",
        sections=SECTIONS,
        columns=columns,
        names=listed([one.run.name for one in columns]),
        sets=in_order(name for run in runs for name in run.evaluation),
        settings=differing_settings(recipes) if len(recipes) == len(runs) else None,
        results=_results(runs),
        forests=[(one, draw_forest(one)) for one in _forests(columns)],
        pairs=pairs_of(runs),
        costs=_costs(runs),
        curves=[(one, draw_curve(one)) for one in overlaid_curves(logged)] if logged else [],
    )


def _results(runs: Sequence[RunFiles]) -> list[ResultRow]:
    """Every metric of every set that some run was evaluated on."""
    rows = []
    for name in in_order(name for run in runs for name in run.evaluation):
        measured = [run.evaluation[name].metrics if name in run.evaluation else {} for run in runs]
        for metric in dict.fromkeys(metric for metrics in measured for metric in metrics):
            rows.append(ResultRow(name, metric, [metrics.get(metric) for metrics in measured]))
    return rows


def _forests(columns: Sequence[Column]) -> list[Forest]:
    """One plot per metric, all scores on the same axis: every run against its own base."""
    alone = unscored_metrics([one.run for one in columns])
    rows = {metric: _forest_rows(columns, metric) for metric in _metrics(columns)}
    scores = [row for metric, own in rows.items() if metric not in alone for row in own]
    return [
        Forest(
            f"forest-{place}",
            capital(metric_name(metric)),
            own,
            own if metric in alone else scores,
        )
        for place, (metric, own) in enumerate(rows.items())
    ]


def _metrics(columns: Sequence[Column]) -> list[str]:
    """What is plotted: the metrics with an axis of their own first, then the scores."""
    evaluated = [one for column in columns for one in column.run.evaluation.values()]
    scores = [name for one in evaluated for name in one.metrics if is_score(one, name)]
    alone = unscored_metrics([column.run for column in columns])
    return list(dict.fromkeys([*alone, *scores]))


def _forest_rows(columns: Sequence[Column], metric: str) -> list[ForestRow]:
    sets = in_order(name for column in columns for name in column.run.evaluation)
    return [
        ForestRow(
            f"{column.letter}  {set_name(name)}",
            column.run.evaluation[name].metrics[metric],
            series=column.series,
        )
        for name in sets
        for column in columns
        if name in column.run.evaluation and metric in column.run.evaluation[name].metrics
    ]


def _costs(runs: Sequence[RunFiles]) -> list[tuple[str, list[str]]]:
    """(what, one value per run) of the numbers that every page of a run opens with."""
    facts = [{fact.name: fact for fact in facts_of(run)} for run in runs]
    names = dict.fromkeys(name for one in facts for name in one)
    return [
        (name, [one[name].value if name in one else "not known" for one in facts]) for name in names
    ]
