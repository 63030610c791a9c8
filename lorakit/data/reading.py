"""Sets of rows, read one after another: how they are asked for, and what each row means."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.detect import Converter, converter_for
from lorakit.data.garbage import collection_paused
from lorakit.data.meanings import Meaning
from lorakit.data.render import Trained
from lorakit.data.row_faults import RowFaults
from lorakit.data.row_set import RowSet, index_path, stamps_of
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
        asks: rows may be prompts alone, of which nothing is trained.
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
    asks: bool = False


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


def read_meanings(
    sources: Any,
    rules: DataRules,
    *,
    cache_dir: str | Path | None = None,
    refused: list[DataError] | None = None,
) -> list[Meaning]:
    """Read and convert every row of every source, in order.

    Args:
        cache_dir: where an index of rows in files is kept, so that the next start need not read
            them all; None: nowhere.
        refused: takes the faults of each source that has sound rows too, which are then all that
            is read of it; None: faults are raised.
    """
    return Reading(sources, rules, cache_dir, refused).read_all()


class Reading:
    """The rows of all sources, read as they are asked for.

    Args:
        sources, rules, cache_dir, refused: see `read_meanings`.

    Attributes:
        meanings: of the rows read so far.
    """

    def __init__(
        self,
        sources: Any,
        rules: DataRules,
        cache_dir: str | Path | None = None,
        refused: list[DataError] | None = None,
    ) -> None:
        self.meanings: list[Meaning] = []
        self._sets = [_SetReader(spec, rules, cache_dir, refused) for spec in source_specs(sources)]

    @property
    def is_new(self) -> bool:
        """Whether all rows stand in lines of files, and not all of these were read before."""
        places = [one.index_place for one in self._sets]
        return None not in places and not all(place and place.is_file() for place in places)

    @property
    def origin(self) -> str:
        """Hex SHA-256 over what the files hold and what converts it; for rows in files only."""
        names = [one.index_place.name for one in self._sets if one.index_place is not None]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def read_all(self) -> list[Meaning]:
        """The meanings of all rows; those of sets that were read before need not be read again."""
        with collection_paused():
            for one in self._sets:
                known = one.known()
                if known is not None:
                    self._note(known, range(len(known)), one.weight)
                else:
                    for _ in track(self._read(one), "reading rows"):
                        pass
        return self.meanings

    def conversations(self) -> Iterator[Conversation | PlainText]:
        """What the rows mean, in order; each is in `meanings` before it comes.

        Raises:
            DataError: at the end of a set, all faulty rows of it; after the first of them no more
                rows come, unless `refused` takes them.
        """
        for one in self._sets:
            yield from self._read(one)

    def _read(self, one: _SetReader) -> Iterator[Conversation | PlainText]:
        for i, conversation in enumerate(one.read()):
            self._note(one.rows, (i,), one.weight)
            yield conversation

    def _note(self, rows: RowSet, indices: Iterable[int], weight: float) -> None:
        self.meanings += [Meaning(rows, i, weight) for i in indices]


class _SetReader:
    """Reads one set.

    Attributes:
        weight: how often each row is seen per epoch.
        index_place: where its index is kept; None for rows that need reading every time.
        rows: those read so far; there when the first was asked for.
    """

    rows: RowSet
    index_place: Path | None = None

    def __init__(
        self,
        spec: SourceSpec,
        rules: DataRules,
        cache_dir: str | Path | None,
        refused: list[DataError] | None,
    ) -> None:
        if not np.isfinite(spec.weight) or spec.weight <= 0:
            raise DataError(
                f"{spec.source}: weight {spec.weight} must be over 0. Leave the set out instead."
            )
        self.weight = spec.weight
        self._spec, self._refused = spec, refused
        self._format = spec.format or rules.format
        self._columns = dict(rules.columns if spec.columns is None else spec.columns)
        self._system = rules.system if spec.system is None else spec.system
        self._trains_all = rules.trained == "all"
        self._asks = rules.asks
        settings = [self._format, self._columns, self._system, self._trains_all, self._asks]
        if cache_dir is not None:
            with contextlib.suppress(OSError):  # a file that cannot be read is told when it is read
                self._stamps = stamps_of(spec.source)
                self.index_place = index_path(cache_dir, spec.source, settings)

    def known(self) -> RowSet | None:
        """The rows, if an index of them is kept."""
        if self.index_place is None or not self.index_place.is_file():
            return None
        first, rows = self._opened()
        rows.close()
        return RowSet.from_index(
            self._spec.source, self._converter(first), self.index_place.read_bytes()
        )

    def read(self) -> Iterator[Conversation | PlainText]:
        """Read the rows, and keep an index of them."""
        first, rows = self._opened()
        convert = self._converter(first)
        template_process().child.start()  # comes up while the rows are read
        self.rows, faults = RowSet(self._spec.source, convert), RowFaults()
        for row in itertools.chain([first], rows):
            try:
                meaning = convert(row)
                if self._trains_all:
                    _check_all_trained(row, meaning)
                if not self._asks:
                    check_answered(meaning, row.location)
            except DataError as error:
                faults.add(row.location, error)
                continue
            self.rows.add(row, meaning)
            if not faults.found or self._refused is not None:
                yield meaning
        try:
            faults.refuse(len(self.rows))
        except DataError as error:
            if self._refused is None or not len(self.rows):
                raise
            self._refused.append(error)
            return  # without an index: the next reader has to find the faults again
        # A file that was changed meanwhile has other rows than the index is named by.
        if self.index_place is not None and stamps_of(self._spec.source) == self._stamps:
            with contextlib.suppress(OSError):  # a run must not fail for want of a cache
                self.index_place.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.index_place, self.rows.index())

    def _opened(self) -> tuple[Row, Generator[Row, None, None]]:
        """The first row, and the others."""
        rows = read_rows(self._spec.source, split=self._spec.split, name=self._spec.name)
        return next(rows), rows  # a set without rows raises

    def _converter(self, first: Row) -> Converter:
        return converter_for(first, format=self._format, columns=self._columns, system=self._system)


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


def check_answered(meaning: Conversation | PlainText, where: str) -> None:
    """Refuse a prompt alone.

    Raises:
        DataError: the row has no answer.
    """
    if isinstance(meaning, Conversation) and not meaning.has_answer:
        raise DataError(
            f"{where}: a prompt without an answer, of which there is nothing to train and nothing "
            "to measure; possible in data.train with train.method: grpo, whose rewards need none. "
            "Elsewhere name the answer's column, with columns: {completion: ...}."
        )


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
