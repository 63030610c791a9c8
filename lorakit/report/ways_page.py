"""The page of `lorakit compare`: five ways to answer, what each is worth and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.compare.recommend import NONE_GOOD, TIE
from lorakit.errors import RunError
from lorakit.report.evaluation_files import Change
from lorakit.report.forest import Forest, ForestRow, draw_forest
from lorakit.report.numbers import Fact
from lorakit.report.read_files import read_json, read_json_lines
from lorakit.report.render import render, write_page
from lorakit.report.ways_files import Answered, Quality, WaysFile
from lorakit.report.ways_plots import (
    Point,
    break_even_said,
    draw_scatter,
    draw_totals,
    points_of,
)
from lorakit.report.words import capital, count, counted, listed, metric_name, set_name

SECTIONS = (
    ("verdict", "Verdict"),
    ("ways", "Each way"),
    ("quality", "Quality"),
    ("costs", "Cost"),
    ("answers", "Answers"),
    ("how", "How measured"),
)


@dataclass(frozen=True)
class Shown:
    """An answered question, and why it is shown."""

    label: str
    answered: Answered
    metric: str | None
    gain: float | None


def write_ways_page(compare: Path, answers: Path, output: Path) -> Path:
    """Make the page of a comparison of ways.

    Args:
        compare: compare.json.
        answers: compare_answers.jsonl; without it no answers are shown.
        output: where the page goes, in place of another page of lorakit's if need be.

    Raises:
        InputError: another file would be overwritten, or its folder is not there.
        RunError: a file is absent or damaged.
    """
    found = read_json(compare, WaysFile, None)
    if found is None:
        raise RunError(f"{str(compare)!r} is not there. `lorakit compare` writes it.")
    page = ways_page(found, read_json_lines(answers, list[Answered], []), source=compare)
    write_page(output, page, option="--html")
    return output


def ways_page(found: WaysFile, answered: Sequence[Answered], *, source: Path) -> str:
    """The HTML of a comparison of ways."""
    points = points_of(found)
    return render(
        "ways.html.jinja",
        title=f"{len(found.ways)} ways to answer: lorakit compare",
        sections=SECTIONS,
        found=found,
        source=str(source),
        headline=headline(found),
        points=points,
        anchor=_anchor(found),
        forests=[(one, draw_forest(one)) for one in _forests(found, points)],
        effects={
            (one.name, metric): _change(found, metric, quality)
            for one in points
            for metric, quality in one.way.metrics.items()
        },
        scatter=draw_scatter(found, points),
        totals=draw_totals(found, points),
        break_even=break_even_said(found),
        shown=shown_answers(found, answered),
        rule=_rule(found, answered),
        facts=_facts(found),
    )


def headline(found: WaysFile) -> str:
    """The recommendation in a sentence."""
    said = found.recommendation
    if said.verdict == NONE_GOOD:
        named = listed([found.title(name) for name in found.ways])
        return f"None is good enough: {metric_name(found.primary)} is 0 for {named}."
    if said.way is None:
        between = listed([found.title(name) for name in said.candidates or tuple(found.ways)])
        return f"{capital(said.verdict)}: {between}."
    if said.verdict == TIE:
        names = listed([found.title(name) for name in said.candidates or (said.way,)])
        return f"A tie of {names}; {found.title(said.way)} is the simplest."
    return f"Take {found.title(said.way)}."


def _anchor(found: WaysFile) -> str | None:
    """The way that the others are held against."""
    return "base" if "base" in found.ways else found.recommendation.best


def _difference(found: WaysFile, quality: Quality) -> Change | None:
    against = quality.against_base if "base" in found.ways else quality.against_best
    if against is None:
        return None
    return Change(
        base=quality.mean - against.difference,
        tuned=quality.mean,
        difference=against.difference,
        interval=against.interval,
        examples=found.examples,
    )


def _change(found: WaysFile, metric: str, quality: Quality) -> Change | None:
    """A way against the anchor; None for the anchor itself."""
    change = _difference(found, quality)
    if change is None:
        return None
    return change.model_copy(update={"higher_is_better": found.is_higher_better(metric)})


def _forests(found: WaysFile, points: Sequence[Point]) -> list[Forest]:
    """The primary metric first; each metric on an axis of its own."""
    metrics = dict.fromkeys([found.primary, *(m for p in points for m in p.way.metrics)])
    anchor = _anchor(found)
    axis = f"difference from {found.title(anchor)}" if anchor else "difference"
    forests = []
    for place, metric in enumerate(metrics):
        rows = [
            ForestRow(f"{one.letter}  {one.way.title}", change, series=one.series)
            for one in points
            if metric in one.way.metrics
            and (change := _change(found, metric, one.way.metrics[metric])) is not None
        ]
        if rows:
            title = capital(metric_name(metric))
            forests.append(Forest(f"forest-{place}", title, rows, rows, axis))
    return forests


def shown_answers(found: WaysFile, answered: Sequence[Answered]) -> list[Shown]:
    """Where the way in question gains most on the plain one, a typical question, and the worst."""
    way, anchor = _way_in_question(found), _anchor(found)
    metric = _answer_metric(found, answered)
    if metric is None or way is None or anchor is None or way == anchor:
        return [Shown("", one, None, None) for one in answered[:3]]
    sign = 1 if found.is_higher_better(metric) else -1
    gains = [
        (sign * (one.ways[way].scores[metric] - one.ways[anchor].scores[metric]), one)
        for one in answered
        if all(name in one.ways and metric in one.ways[name].scores for name in (way, anchor))
    ]
    if not gains:
        return [Shown("", one, None, None) for one in answered[:3]]
    gains.sort(key=lambda pair: (-pair[0], pair[1].index))
    shown: dict[int, str] = {}
    for label, place in (("Best", 0), ("Typical", len(gains) // 2), ("Worst", len(gains) - 1)):
        shown.setdefault(place, label)
    return [
        Shown(label, gains[place][1], metric, sign * gains[place][0])
        for place, label in shown.items()
    ]


def _way_in_question(found: WaysFile) -> str | None:
    said = found.recommendation
    named = [said.way, said.best, *reversed(found.ways)]
    return next((one for one in named if one in found.ways and one != _anchor(found)), None)


def _answer_metric(found: WaysFile, answered: Sequence[Answered]) -> str | None:
    """The primary metric; where single answers have none, the first they have."""
    scored = next((way.scores for one in answered for way in one.ways.values() if way.scores), {})
    return found.primary if found.primary in scored else next(iter(scored), None)


def _rule(found: WaysFile, answered: Sequence[Answered]) -> str:
    way, anchor = _way_in_question(found), _anchor(found)
    metric = _answer_metric(found, answered)
    if metric is None or way is None or anchor is None:
        return "The first questions."
    return (
        f"Of {counted(len(answered), 'question')} ordered by what {found.title(way)} gains over "
        f"{found.title(anchor)} in {metric_name(metric)}: the highest, the median and the lowest."
    )


def _facts(found: WaysFile) -> list[Fact]:
    asked = f"of {count(found.available)} that could be asked" if found.available else ""
    facts = [
        Fact("Questions", count(found.examples), f"{set_name(found.set)}, {asked}".strip(", "))
    ]
    if found.margin is not None:
        facts.append(
            Fact("May be lost", f"{found.margin:g}", f"in {metric_name(found.primary)}, if cheaper")
        )
    if found.calls is not None:
        facts.append(Fact("Calls reckoned with", count(found.calls)))
    if found.documents is not None:
        chunks = f"in {counted(found.documents.chunks, 'chunk')}"
        facts.append(Fact("Documents", count(found.documents.files), chunks))
    if found.base is not None:
        facts.append(Fact("Base", found.base.rstrip("/").rpartition("/")[2] or found.base))
    if found.machine is not None:
        facts.append(Fact("Measured on", found.machine))
    return facts
