"""Which columns the rows of a data set have, and which of them not every row has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lorakit.data.sources import Row
from lorakit.progress import track


@dataclass(frozen=True)
class Columns:
    """Of a data set.

    Attributes:
        names: of all columns, in the order in which rows bring them.
        gaps: {name: `3 of 400 rows (first: rows.jsonl:7)`} of those that some rows lack.
    """

    names: Sequence[str]
    gaps: Mapping[str, str] = field(default_factory=dict)


def columns_of(rows: Sequence[Row] | None) -> Columns:
    """Of every row: a single one without a column that a reward wants is found while it trains, in
    the midst of a run, if not here.

    Args:
        rows: None: there are none.
    """
    # Rows are of few kinds: {its columns: (number of rows, the number of the first, its place)}.
    kinds: dict[tuple[str, ...], tuple[int, int, str]] = {}
    for number, row in enumerate(track(rows or (), "looking for columns", len(rows or ()))):
        columns = tuple(row.values)
        count, first, place = kinds.get(columns, (0, number, row.location))
        kinds[columns] = count + 1, first, place
    names = list(dict.fromkeys(name for columns in kinds for name in columns))
    total = sum(count for count, _, _ in kinds.values())
    gaps = {}
    for name in names:
        lacking = [found for columns, found in kinds.items() if name not in columns]
        if lacking:
            count = sum(one[0] for one in lacking)
            place = min(lacking, key=lambda one: one[1])[2]
            gaps[name] = f"{count:,} of {total:,} rows (first: {place})"
    return Columns(names, gaps)
