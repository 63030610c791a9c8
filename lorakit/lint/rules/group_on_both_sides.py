"""Rows of one group on both sides of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.data.prepare import Prepared
from lorakit.lint.facts import Facts
from lorakit.lint.row_texts import Sample
from lorakit.lint.told import Hits

ID = "group-on-both-sides"
SEVERITIES = ("warning", "note")
TITLE = "Rows of one group on both sides of a split"
REASON = (
    "Rows of one patient, user or document are alike beyond what is asked: whoever has seen "
    "some of them in training knows more of the others than of a new one, and the held-out "
    "figure flatters. A column is taken for such a key if its name says so (patient, user_id, "
    "doc, url, ...), it has many values with several rows each, and held-out rows have the "
    "values of training rows. A note where only the values look like ids (P1234)."
)
SOURCE = "practice; Kaufman et al., Leakage in Data Mining (doi 10.1145/2382577.2382579)"
EXAMPLE = '{"patient": "P9959", "prompt": "...", "completion": "..."}   # data.group is not set'
MEND = (
    "Set data.group to that column, and choose held-out files by it. If the model will meet "
    "the same groups again (recommendations), silence this rule."
)

# These tell apart by themselves, the others only with an `_id` or the like: a subject may be maths.
_ENTITY = (
    "patient|user|customer|participant|speaker|student|employee|thread|conversation|dialog(?:ue)?|"
    "doc|document|article|passage|paragraph|url|uri|file|filename|filepath|repo|repository|book|"
    "story|video|image|encounter|admission|mrn|pmid|doi|isbn|group"
)
_OTHER = "client|subject|person|member|account|session|page|case|study|visit|episode|cluster"
_ID = r"[_\-. ]?(?:ids?|key|hash|uuid|ref|nr|no)"
_NAMED = regex.compile(
    rf"\A(?!num|n_|count)(?:.*[_\-. ])?(?:(?:{_ENTITY})(?:{_ID}|[_\-. ]?name)?|(?:{_OTHER}){_ID})"
)
_CAMEL = regex.compile(r"(?<=[a-z])(?=[A-Z])")
_LOOKS_LIKE_ID = regex.compile(r"(?=\S{0,39}\d)(?=\S{0,39}\p{L})\S{2,40}")
MAX_CHARACTERS = 200
MIN_GROUPS, MIN_ROWS_PER_GROUP = 10, 1.2
MAX_SHARE_OF_ONE = 0.2  # a value with more rows is a category's
MIN_SHARED, MIN_SHARE = 5, 0.2
MAX_TRAIN_ROWS, MAX_HELD_OUT_ROWS = 10_000, 2_000


def find(facts: Facts) -> Iterator[Finding]:
    data, train = facts.recipe.data, facts.train
    if data.group is not None or not train.rows:
        return
    topics = None if data.hold_out_topics is None else data.hold_out_topics.column
    first = facts.sets.train.rows[train.rows[0].index].values
    for column in first:
        if column == topics or not _is_value(first[column]):
            continue
        named = is_named_as_key(column)
        if not named and not _LOOKS_LIKE_ID.fullmatch(str(first[column])):
            continue
        groups = Counter(_values(facts.sets.train, train, column, MAX_TRAIN_ROWS).values())
        if _are_groups(groups) and (named or _look_like_ids(groups)):
            yield from _shared(facts, column, groups, named=named)
            return


def is_named_as_key(column: str) -> bool:
    """Whether a column's name says that its values tell persons, documents and the like apart."""
    return _NAMED.fullmatch(_CAMEL.sub("_", column).casefold()) is not None


def _shared(facts: Facts, column: str, groups: Counter[str], *, named: bool) -> Iterator[Finding]:
    for name, sample in facts.held_out.items():
        values = _values(facts.held_out_sets[name], sample, column, MAX_HELD_OUT_ROWS)
        hits = Hits(sample, len(values))
        for row in sample:
            if values.get(row.index) in groups:
                hits.add(row, values[row.index])
        if hits.count >= MIN_SHARED and hits.share >= MIN_SHARE:
            yield hits.finding(
                ID,
                "warning" if named else "note",
                f"have a {column!r} that training rows have too",
                f"the figure flatters; set data.group: {column}",
            )


def _values(prepared: Prepared, sample: Sample, column: str, limit: int) -> dict[int, str]:
    """{row: its value of the column}, of rows that have one; evenly spread where there are many."""
    step = max(1, -(-len(sample) // limit))
    values = (
        (row.index, prepared.rows[row.index].values.get(column)) for row in sample.rows[::step]
    )
    return {index: str(value) for index, value in values if _is_value(value)}


def _is_value(value: object) -> bool:
    """Whether it can be a key: a short text, or a whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return False
    return 0 < len(str(value)) <= MAX_CHARACTERS


def _are_groups(groups: Counter[str]) -> bool:
    """Many values, several rows each, none with most of them."""
    total = sum(groups.values())
    return (
        len(groups) >= MIN_GROUPS
        and total >= MIN_ROWS_PER_GROUP * len(groups)
        and max(groups.values()) <= MAX_SHARE_OF_ONE * total
    )


def _look_like_ids(groups: Counter[str]) -> bool:
    return all(_LOOKS_LIKE_ID.fullmatch(value) for value in groups)
