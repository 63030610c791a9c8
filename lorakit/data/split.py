"""Train and held-out rows: split by group, and kept apart.

A split depends on what the rows say and on the seed, never on their order: each group (the rows
with equal values in the group column; without one, rows that say the same, white space aside) gets
a hash, and those with the smallest go to the held-out side until it has its share.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from lorakit.data.contract import Findings
from lorakit.data.meanings import Meaning
from lorakit.errors import DataError

TOPICS_SHOWN = 8


def split_rows(
    meanings: Sequence[Meaning], fraction: float, *, group: str | None, seed: int
) -> tuple[list[Meaning], list[Meaning]]:
    """Split into train and held-out rows.

    Args:
        meanings: the rows.
        fraction: share of the rows to hold out, in (0, 1); whole groups are taken until it is
            reached.
        group: column whose equal values stay on one side; None: only equal rows stay together.
        seed: another seed holds out other groups.

    Returns:
        (train, held out), each in the given order.

    Raises:
        DataError: the group column is missing, or there are fewer than two groups.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, meaning in enumerate(meanings):
        members[_group_of(meaning, group)].append(i)
    if len(members) < 2:
        raise DataError(
            f"{len(meanings)} rows in {len(members)} group(s) cannot be split; at least two groups "
            "are needed. Name another group column, or give a validation set of its own."
        )
    wanted = max(1, round(fraction * len(meanings)))
    held: set[int] = set()
    for name in sorted(members, key=lambda name: _rank(name, seed))[:-1]:
        if len(held) >= wanted:
            break
        held.update(members[name])
    train = [meaning for i, meaning in enumerate(meanings) if i not in held]
    return train, [meanings[i] for i in sorted(held)]


def hold_out_topics(
    meanings: Sequence[Meaning],
    column: str,
    values: Sequence[str] | None,
    fraction: float,
    *,
    seed: int,
) -> tuple[list[Meaning], list[Meaning]]:
    """Split off whole topics: no value of the column is on both sides.

    Args:
        meanings: the rows.
        column: says what a row is about; every row has it.
        values: the topics to split off; None: drawn by the seed until they have `fraction`.
        fraction: share of the rows, in (0, 1).
        seed: another seed draws other topics.

    Returns:
        (other rows, rows of the held-out topics), each in the given order.

    Raises:
        DataError: the column is missing in a row or has one value only, or a value does not occur.
    """
    if values is None:
        return split_rows(meanings, fraction, group=column, seed=seed)
    topics = [_group_of(meaning, column) for meaning in meanings]
    unknown = sorted(set(values) - set(topics))
    if unknown:
        raise DataError(
            f"data.hold_out_topics.values {unknown} do not occur in the column {column!r}; it has "
            f"{listed_topics(topics)}. Name some of these."
        )
    held = set(values)
    rest = [m for m, topic in zip(meanings, topics, strict=True) if topic not in held]
    if not rest:
        raise DataError(
            f"data.hold_out_topics.values are all topics of the column {column!r}, so that no row "
            "is left to train on. Name fewer."
        )
    return rest, [m for m, topic in zip(meanings, topics, strict=True) if topic in held]


def topics_of(meanings: Sequence[Meaning], column: str) -> list[str]:
    """The values of the column, sorted, without repetition."""
    return sorted({_group_of(meaning, column) for meaning in meanings})


def without_topics(
    meanings: Sequence[Meaning], column: str, topics: Sequence[str], findings: Findings
) -> list[Meaning]:
    """The rows that are not about the topics; a row without the column is kept."""
    held, kept = set(topics), []
    for meaning in meanings:
        if str(meaning.row.values.get(column)) in held:
            findings.add("rows-of-held-out-topics", meaning.location)
        else:
            kept.append(meaning)
    return kept


def listed_topics(topics: Iterable[str]) -> str:
    """The first few by name, and how many there are besides."""
    named = sorted(set(topics))
    more = f" and {len(named) - TOPICS_SHOWN} more" if len(named) > TOPICS_SHOWN else ""
    return ", ".join(map(repr, named[:TOPICS_SHOWN])) + more


def keep_apart(
    held: Sequence[Meaning],
    train: Sequence[Meaning],
    findings: Findings,
    *,
    group: str | None,
    validation: Sequence[Meaning] = (),
) -> list[Meaning]:
    """The held-out rows that do not occur in train; what is left out is counted as a finding.

    Rows are the same if user and assistant say the same in them. Rows of a group that also occurs
    in train are kept, with a finding. Rows of `validation`, the set that decides when to stop, are
    left out as well.
    """
    seen = {meaning.said_hash for meaning in train}
    validated = {meaning.said_hash for meaning in validation}
    groups = {_group_of(m, group) for m in train if group and group in m.row.values}
    kept = []
    for meaning in held:
        where = meaning.location
        if meaning.said_hash in seen:
            findings.add("rows-shared-with-train", where)
            continue
        if meaning.said_hash in validated:
            findings.add("rows-shared-with-validation", where)
            continue
        if group and group in meaning.row.values and _group_of(meaning, group) in groups:
            findings.add("groups-shared-with-train", where, repr(meaning.row.values[group]))
        kept.append(meaning)
    return kept


def _group_of(meaning: Meaning, group: str | None) -> str:
    if group is None:
        return meaning.said_hash.hex()
    if meaning.row.values.get(group) is None:
        raise DataError(
            f"{meaning.location}: no value in the group column {group!r}; the row has "
            f"{sorted(meaning.row.values)}. Fill it, or name another column."
        )
    return str(meaning.row.values[group])


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()
