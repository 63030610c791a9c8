"""Rows of one or more sets, and what each of them means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.detect import converter_for
from lorakit.data.render import Trained
from lorakit.data.sources import Row, read_rows
from lorakit.errors import DataError
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
        max_dropped: stop when a larger share of the rows than this would be dropped.
        trained: every assistant turn, the last one only, or every token.
        chat_template: Jinja source to use instead of the tokenizer's.
    """

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    max_length: int | None = None
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


@dataclass(frozen=True)
class Meaning:
    """A row, what it means, and how often it is seen per epoch."""

    row: Row
    conversation: Conversation | PlainText
    weight: float

    @cached_property
    def content_hash(self) -> bytes:
        """SHA-256 over what the row means: equal for two rows that train the same."""
        meant = self.conversation
        content = (
            meant.text
            if isinstance(meant, PlainText)
            else [meant.messages, meant.weights, meant.tools]
        )
        # In the order given: templates write a tool call's arguments in it.
        return hashlib.sha256(json.dumps(content).encode()).digest()

    @cached_property
    def said_hash(self) -> bytes:
        """SHA-256 over what user and assistant say, white space aside: equal for two rows of
        which one tells the answer of the other, whatever system message or weights they have."""
        meant = self.conversation
        said = (
            [["text", _squeezed(meant.text)]]
            if isinstance(meant, PlainText)
            else [
                [m["role"], _squeezed(_text_of(m)), m.get("tool_calls", [])]
                for m in meant.messages
                if m["role"] in ("user", "assistant")
            ]
        )
        return hashlib.sha256(json.dumps(said).encode()).digest()


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content", "")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def read_meanings(sources: Any, rules: DataRules) -> list[Meaning]:
    """Read and convert every row of every source, in order."""
    return [
        meaning
        for spec in source_specs(sources)
        for meaning in track(_meanings(spec, rules), "reading rows")
    ]


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


def _meanings(spec: SourceSpec, rules: DataRules) -> Iterator[Meaning]:
    if not np.isfinite(spec.weight) or spec.weight <= 0:
        raise DataError(
            f"{spec.source}: weight {spec.weight} must be over 0. Leave the set out instead."
        )
    converter = None
    for row in read_rows(spec.source, split=spec.split, name=spec.name):
        if converter is None:
            converter = converter_for(
                row,
                format=spec.format or rules.format,
                columns=rules.columns if spec.columns is None else spec.columns,
                system=rules.system if spec.system is None else spec.system,
            )
        meaning = Meaning(row, converter(row), spec.weight)
        if rules.trained == "all":
            _check_all_trained(meaning)
        yield meaning


def _check_all_trained(meaning: Meaning) -> None:
    """Refuse a row that says otherwise where every token is to be trained."""
    if isinstance(meaning.conversation, PlainText):
        return
    for message, weight in zip(
        meaning.conversation.messages, meaning.conversation.weights, strict=True
    ):
        if message["role"] == "assistant" and weight != 1:
            raise DataError(
                f"{meaning.row.location}: `trained: all` trains every token, but an assistant "
                f"message has weight {weight:g} (`train`, `weight`, or it stands in the prompt). "
                "Remove that, or set trained: assistant."
            )
