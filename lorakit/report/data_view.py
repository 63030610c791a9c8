"""Rows as pages show them: lengths of every set, and examples token by token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from lorakit.data.row_use import TRAINED, RowUse
from lorakit.recipe.warm_start import TRAIN_SET
from lorakit.report.curves import draw_histogram, is_near_limit
from lorakit.report.data_files import SetFacts, ShownExample
from lorakit.report.words import count, set_name


@dataclass(frozen=True)
class Shown:
    """The text of a token, and whether it is a trained stop token."""

    text: str
    is_stop: bool


@dataclass(frozen=True)
class Part:
    """Neighbouring pieces of an example that are all trained, or all not."""

    trained: bool
    pieces: list[Shown]


@dataclass(frozen=True)
class MarkedExample:
    """An example to be shown; `before` and `after` count tokens that are not."""

    title: str
    parts: list[Part]
    before: int
    after: int


@dataclass(frozen=True)
class ExamplesOfUse:
    """Examples of rows that are used alike.

    Attributes:
        has_stops: whether tokens that end a trained answer are marked as such.
    """

    title: str
    use: RowUse
    examples: list[MarkedExample]
    has_stops: bool


def examples_by_use(
    examples: Sequence[ShownExample], use: RowUse, stops: Collection[str] = ()
) -> list[ExamplesOfUse]:
    """Examples of the training rows, and behind them those of a warm start.

    Args:
        use: of the training rows.
        stops: texts of tokens that end an answer.
    """
    found = []
    for name, title, one_use in (
        ("train", use.title, use),
        (TRAIN_SET, f"{TRAINED.title} by the warm start", TRAINED),
    ):
        shown = [marked(one, stops) for one in examples if one.set == name]
        if shown:
            has_stops = bool(stops) and one_use is TRAINED
            found.append(ExamplesOfUse(title, one_use, shown, has_stops))
    return found


def histograms_of(sets: dict[str, SetFacts]) -> list[tuple[str, Markup, str]]:
    """(title, plot, remark) of every set."""
    drawn = []
    for number, (name, facts) in enumerate(sets.items()):
        if facts.max_length is None:
            detail = "max_length: none"
        elif is_near_limit(facts):
            detail = f"dashed: max_length {count(facts.max_length)}"
        else:
            detail = f"max_length {count(facts.max_length)} lies far to the right"
        drawn.append((f"{set_name(name)}: lengths", draw_histogram(str(number), facts), detail))
    return drawn


def marked(example: ShownExample, stops: Collection[str] = ()) -> MarkedExample:
    """An example to be shown; `stops` are the texts of tokens that end an answer."""
    parts = [
        Part(trained, [Shown(one.text, one.trained and one.text in stops) for one in pieces])
        for trained, pieces in groupby(example.pieces, lambda piece: piece.trained)
    ]
    title = set_name(example.set)
    if example.index is not None:
        title += f", example {example.index + 1}"
    if example.tokens is not None:
        title += f", {count(example.tokens)} tokens"
    return MarkedExample(title, parts, example.left_out.before, example.left_out.after)
