"""What the rows of `data.train` are used for: training, validation, and unseen topics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorakit.data.contract import Finding, Findings
from lorakit.data.meanings import Meaning
from lorakit.data.split import (
    hold_out_topics,
    listed_topics,
    split_rows,
    topics_of,
    without_topics,
)
from lorakit.recipe import Recipe


@dataclass(frozen=True)
class Parts:
    """What the rows of `data.train` and `data.validation` are used for.

    Attributes:
        train: those that are trained on.
        validation: those that decide when to stop; None: there are none.
        unseen: those of held-out topics, with the column and its held-out values; None: no topic
            is held out.
    """

    train: list[Meaning]
    validation: list[Meaning] | None
    unseen: list[Meaning] | None = None
    column: str = ""
    topics: tuple[str, ...] = ()

    def without_held_out(
        self, meanings: Sequence[Meaning], findings: Findings
    ) -> Sequence[Meaning]:
        """The rows that are not about a held-out topic."""
        if self.unseen is None:
            return meanings
        return without_topics(meanings, self.column, self.topics, findings)


def parts_of(recipe: Recipe, meanings: list[Meaning]) -> Parts:
    """Share the rows of `data.train` among training, validation and unseen topics.

    Raises:
        DataError: they cannot be split as the recipe says.
    """
    data, seed = recipe.data, recipe.train.seed
    unseen, column = None, ""
    topics: tuple[str, ...] = ()
    if data.hold_out_topics is not None:
        wanted = data.hold_out_topics
        column = wanted.column
        values = None if wanted.values is None else [str(value) for value in wanted.values]
        meanings, unseen = hold_out_topics(meanings, column, values, wanted.fraction, seed=seed)
        topics = tuple(topics_of(unseen, column))
    validation = None
    if isinstance(data.validation, float):
        meanings, validation = split_rows(meanings, data.validation, group=data.group, seed=seed)
    return Parts(meanings, validation, unseen, column, topics)


def tell_topics(parts: Parts) -> list[Finding]:
    """Which topics are held out, in words."""
    told = Findings()
    told.add("topics-held-out", "")
    count, rows = len(parts.topics), len(parts.unseen or ())
    told.explain(
        "topics-held-out",
        f"{count} {'value' if count == 1 else 'values'} of the column {parts.column!r} "
        f"({rows} {'row' if rows == 1 else 'rows'} of data.train) "
        f"{'is' if count == 1 else 'are'} held out of training and validation: "
        f"{listed_topics(parts.topics)}",
    )
    return told.collected()
