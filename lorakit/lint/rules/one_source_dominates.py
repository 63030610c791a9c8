"""One of several sources dominates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "one-source-dominates"
SEVERITIES = ("warning", "note")
TITLE = "One of several sources dominates"
REASON = (
    "Where data come from several sources and one has nearly all trained tokens, the others "
    "hardly change the model: long rows weigh more than their number tells. Mixing in a "
    "little general data on purpose is such a case, and fine, so this is a note. It is a warning "
    "where weights make it worse: the largest file has the largest weight. Whoever gives it a "
    "smaller weight than the others has seen it, and is told nothing."
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
            raised = 0 if column is not None else _raised(facts, name)
            if raised < 0:
                continue
            kind = "files" if column is None else f"values of column {column!r}"
            yield Finding(
                ID,
                "warning" if raised else "note",
                f"train: {name} has {most / total:.0%} of the trained tokens, of {len(tokens)} "
                f"{kind}{', and the largest weight' if raised else ''}; "
                "weight the sources in data.train if the others are to count",
                "data.train",
            )
            return


def _raised(facts: Facts, name: str) -> int:
    """Whether a file's weight is the largest (1), smaller than another's (-1), or all are alike."""
    weights: dict[str, float] = {}
    for row in facts.train:
        weights[row.where.rpartition(":")[0]] = float(facts.train.repeats[row.index])
    others = [weight for source, weight in weights.items() if source != name]
    if weights[name] < max(others):
        return -1
    return int(weights[name] > min(others))


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
