"""One of several sources dominates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "one-source-dominates"
SEVERITIES = ("note",)
TITLE = "One of several sources dominates"
REASON = (
    "Where data come from several sources and one has nearly all trained tokens, the others "
    "hardly change the model: long rows weigh more than their number tells. Mixing in a "
    "little general data on purpose is such a case, and fine, so this is a note. Whoever gives "
    "the largest file a smaller weight than another has seen it, and is told nothing."
)
SOURCE = "practice"
EXAMPLE = """\
data:
  train: [huge_forum_dump.jsonl, notes.jsonl, letters.jsonl]"""
MEND = "Weight the sources: data.train: [{path: a.jsonl, weight: 0.2}, b.jsonl]."

COLUMNS = (
    "source",
    "dataset",
    "data_source",
    "origin",
    "subset",
    "corpus",
    "domain",
    "category",
    "site",
    "publisher",
    "provider",
    "author",
)
MIN_SOURCES, MAX_SOURCES = 2, 200
DOMINATES = 0.8


def find(facts: Facts) -> Iterator[Finding]:
    for column in (None, *COLUMNS):
        tokens = _tokens_by(facts, column)
        total = sum(tokens.values())
        if not MIN_SOURCES <= len(tokens) <= MAX_SOURCES:
            continue
        name, most = max(tokens.items(), key=lambda one: one[1])
        if most >= DOMINATES * total:
            if column is None and _is_lowered(facts, name):
                continue
            kind = "files" if column is None else f"values of column {column!r}"
            yield Finding(
                ID,
                "note",
                f"train: {name} has {most / total:.0%} of the trained tokens, of {len(tokens)} "
                f"{kind}; "
                "weight the sources in data.train if the others are to count",
                "data.train",
            )
            return


def _is_lowered(facts: Facts, name: str) -> bool:
    """Whether a file weighs less than another."""
    weights: dict[str, float] = {}
    for row in facts.train:
        weights[row.where.rpartition(":")[0]] = float(facts.train.repeats[row.index])
    return weights[name] < max(weights.values())


def _tokens_by(facts: Facts, column: str | None) -> dict[str, float]:
    """{source: its trained tokens in an epoch}; none where the rows have no such column."""
    train, prepared = facts.train, facts.sets.train
    tokens: dict[str, float] = defaultdict(float)
    if column is not None and (
        not train.rows or column not in prepared.rows[train.rows[0].index].values
    ):
        return {}
    for row in train:
        if column is None:
            source = row.where.rpartition(":")[0]
        else:
            value = prepared.rows[row.index].values.get(column)
            if not isinstance(value, str):
                return {}
            source = value
        tokens[source] += float(
            prepared.examples.trained_lengths[row.index] * train.repeats[row.index]
        )
    return tokens
