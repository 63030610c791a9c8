"""Rows of one or more sets, and what each of them means."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.detect import converter_for
from lorakit.data.garbage import collection_paused
from lorakit.data.render import Trained
from lorakit.data.row_faults import RowFaults
from lorakit.data.row_set import RowSet, index_path
from lorakit.data.sources import Row, read_rows
from lorakit.data.template_process import template_process
from lorakit.errors import DataError
from lorakit.files import write_atomically
from lorakit.progress import track


@dataclass(frozen=True)
class DataRules:
    """How rows become examples.

    Attributes:
        format: row format by name, or `auto`.
        columns: {name the format expects: column in the file}.
        system: system message for rows without one.
        max_length: tokens per example; None: no limit.
        too_long: rows over max_length are dropped whole and counted, or an error.
        context: tokens the base can attend to, for messages; None: no limit is known.
        max_dropped: stop when a larger share of the rows than this would be dropped.
        trained: every assistant turn, the last one only, or every token.
        chat_template: Jinja source to use instead of the tokenizer's.
    """

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    max_length: int | None = None
    context: int | None = None
    too_long: Literal["drop", "error"] = "drop"
    max_dropped: float = 0.2
    trained: Trained = "assistant"
    chat_template: str | None = None


@dataclass(frozen=True)
class SourceSpec:
    """One set of rows to read, with what differs from the rules.

    Attributes:
        source: path, hub id, list of dicts or datasets.Dataset (see `sources.read_rows`).
        weight: how often each row is seen per epoch.
        split, name: split and configuration of a hub data set.
        format, columns, system: instead of the rules'; None: as in the rules.
    """

    source: Any
    weight: float = 1.0
    split: str | None = None
    name: str | None = None
    format: str | None = None
    columns: Mapping[str, str] | None = None
    system: str | None = None


class Meaning:
    """A row, what it means, and how often it is seen per epoch.

    A handle: the row is read again where its set is too large to be held.
    """

    __slots__ = ("_index", "_rows", "weight")

    def __init__(self, rows: RowSet, index: int, weight: float) -> None:
        self._rows, self._index, self.weight = rows, index, weight

    @property
    def row(self) -> Row:
        """The row as read."""
        return self._rows.row(self._index)

    @property
    def location(self) -> str:
        """Where it stands."""
        return self._rows.location(self._index)

    @property
    def conversation(self) -> Conversation | PlainText:
        """What it means."""
        return self._rows.conversation(self._index)

    @property
    def content_hash(self) -> bytes:
        """SHA-256 over what the row means: equal for two rows that train the same."""
        return self._rows.content_hash(self._index)

    @property
    def said_hash(self) -> bytes:
        """SHA-256 over what user and assistant say, white space aside: equal for two rows of
        which one tells the answer of the other, whatever system message or weights they have."""
        return self._rows.said_hash(self._index)


def read_meanings(
    sources: Any, rules: DataRules, *, cache_dir: str | Path | None = None
) -> list[Meaning]:
    """Read and convert every row of every source, in order.

    Args:
        cache_dir: where an index of rows in files is kept, so that the next start need not read
            them all; None: nowhere.
    """
    meanings: list[Meaning] = []
    with collection_paused():
        for spec in source_specs(sources):
            rows = _row_set(spec, rules, cache_dir)
            meanings += [Meaning(rows, i, spec.weight) for i in range(len(rows))]
    return meanings


def source_specs(sources: Any) -> list[SourceSpec]:
    """The sets to read, from a source, a SourceSpec, or a list of either."""
    if isinstance(sources, SourceSpec):
        return [sources]
    if isinstance(sources, str | Path) or not _is_list_of_sources(sources):
        return [SourceSpec(sources)]
    return [item if isinstance(item, SourceSpec) else SourceSpec(item) for item in sources]


def _is_list_of_sources(sources: Any) -> bool:
    if not isinstance(sources, list | tuple):
        return False
    return not sources or not isinstance(sources[0], Mapping)


def _row_set(spec: SourceSpec, rules: DataRules, cache_dir: str | Path | None) -> RowSet:
    if not np.isfinite(spec.weight) or spec.weight <= 0:
        raise DataError(
            f"{spec.source}: weight {spec.weight} must be over 0. Leave the set out instead."
        )
    format = spec.format or rules.format
    columns = dict(rules.columns if spec.columns is None else spec.columns)
    system = rules.system if spec.system is None else spec.system
    rows = read_rows(spec.source, split=spec.split, name=spec.name)
    first = next(rows)  # a set without rows raises
    converter = converter_for(first, format=format, columns=columns, system=system)
    path = None
    if cache_dir is not None:
        settings = [format, columns, system, rules.trained == "all"]
        path = index_path(cache_dir, spec.source, settings)
    known = None
    if path is not None and path.is_file():
        known = RowSet.from_index(spec.source, converter, path.read_bytes())
    if known is not None:
        rows.close()
        return known
    template_process().start()  # comes up while the rows are read
    row_set, faults = RowSet(spec.source, converter), RowFaults()
    for row in track(itertools.chain([first], rows), "reading rows"):
        with faults.of(row.location):
            meaning = converter(row)
            if rules.trained == "all":
                _check_all_trained(row, meaning)
            row_set.add(row, meaning)
    faults.refuse(len(row_set))
    if path is not None:
        with contextlib.suppress(OSError):  # a run must not fail for want of a cache
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, row_set.index())
    return row_set


def _check_all_trained(row: Row, meaning: Conversation | PlainText) -> None:
    """Refuse a row that says otherwise where every token is to be trained."""
    if isinstance(meaning, PlainText):
        return
    for message, weight in zip(meaning.messages, meaning.weights, strict=True):
        if message["role"] == "assistant" and weight != 1:
            raise DataError(
                f"{row.location}: `trained: all` trains every token, but an assistant "
                f"message has weight {weight:g} (`train`, `weight`, or it stands in the prompt). "
                "Remove that, or set trained: assistant."
            )
