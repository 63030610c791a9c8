"""Rows in, examples out: read, convert, render, and hold every row to the data contract."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.code_version import code_version
from lorakit.data.contract import Finding
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.examples import Example, ExampleSet, examples_in_memory
from lorakit.data.meanings import Meaning, Meanings, identities
from lorakit.data.outcome import Rows, render_all
from lorakit.data.reading import DataRules, Reading
from lorakit.data.render import Renderer
from lorakit.data.sources import Row
from lorakit.data.store import TokenStore, open_store, store_writer
from lorakit.errors import DataError

Read = TypeVar("Read", covariant=True)


@dataclass(frozen=True)
class Prepared:
    """What became of the rows.

    Attributes:
        examples: the examples, in reading order.
        repeats: float64 (number of examples,), how often each is seen per epoch.
        read, kept, dropped: rows.
        findings: of the data contract.
        meanings: of the rows behind the examples, one each, in the same order; of a large set rows
            are read again when they are asked for.
        chat_template: the template that was used, to be saved with the model.
        stop_ids: tokens that end trained turns, those of the most rows first; whoever generates
            with the tuned model must stop at them.
    """

    examples: ExampleSet
    repeats: np.ndarray
    read: int
    kept: int
    dropped: int
    findings: list[Finding]
    meanings: Sequence[Meaning]
    chat_template: str
    stop_ids: tuple[int, ...]

    @property
    def rows(self) -> Sequence[Row]:
        """The rows behind the examples."""
        return _OfMeanings(self.meanings, lambda meaning: meaning.row)

    @property
    def conversations(self) -> Sequence[Conversation | PlainText]:
        """What these rows mean."""
        return _OfMeanings(self.meanings, lambda meaning: meaning.conversation)


def prepare_examples(
    sources: Any,
    tokenizer: PreTrainedTokenizerBase,
    rules: DataRules,
    *,
    cache_dir: str | Path | None = None,
) -> Prepared:
    """Read every source and turn its rows into examples.

    Args:
        sources: a source or a SourceSpec, or a list of them.
        tokenizer: a fast tokenizer.
        rules: how rows become examples.
        cache_dir: where tokens are kept on disk; None: in memory.

    Raises:
        DataError: a fault in a row (file and line named), nothing left to train, more than
            max_dropped of the rows to be dropped, or a too long row under too_long: error.
    """
    return read_and_prepare(sources, tokenizer, rules, cache_dir=cache_dir)[1]


def read_and_prepare(
    sources: Any,
    tokenizer: PreTrainedTokenizerBase,
    rules: DataRules,
    *,
    cache_dir: str | Path | None = None,
    refused: list[DataError] | None = None,
) -> tuple[list[Meaning], Prepared]:
    """As `prepare_examples`; also returns what the rows mean.

    Args:
        refused: see `read_meanings`.

    Rows that cannot have been tokenized before are tokenized while they are read. Of others the
    key has to be known first, and for that all of them.
    """
    reading = Reading(sources, rules, cache_dir, refused)
    if cache_dir is not None and not reading.is_new:
        meanings = reading.read_all()
        return meanings, prepare_meanings(meanings, tokenizer, rules, cache_dir=cache_dir)
    renderer = Renderer(tokenizer, trained=rules.trained, chat_template=rules.chat_template)
    if cache_dir is not None:
        made_by = _makers(renderer.fingerprint, rules)
        origin = hashlib.sha256(f"{reading.origin}{made_by}".encode()).hexdigest()
        try:
            return reading.meanings, _stored(reading, renderer, rules, cache_dir, origin)
        except OSError as error:  # a run must not fail for want of a cache
            if refused:
                refused.clear()  # they are found again
            reading = Reading(sources, rules, refused=refused)
            prepared = _in_memory(reading, renderer, rules)
            prepared.findings.append(_not_stored(cache_dir, error))
            return reading.meanings, prepared
    return reading.meanings, _in_memory(reading, renderer, rules)


def prepare_meanings(
    meanings: Sequence[Meaning],
    tokenizer: PreTrainedTokenizerBase,
    rules: DataRules,
    *,
    cache_dir: str | Path | None = None,
) -> Prepared:
    """As `prepare_examples`, for rows that were read already."""
    renderer = Renderer(tokenizer, trained=rules.trained, chat_template=rules.chat_template)
    rows = _Read(meanings)
    if cache_dir is None:
        return _in_memory(rows, renderer, rules)
    key = store_key(meanings, renderer.fingerprint, rules)
    store = open_store(cache_dir, key)
    if store is not None:
        return _of_store(store, meanings, renderer)
    try:
        return _stored(rows, renderer, rules, cache_dir, key)
    except OSError as error:  # a run must not fail for want of a cache
        prepared = _in_memory(rows, renderer, rules)
        prepared.findings.append(_not_stored(cache_dir, error))
        return prepared


class _Read:
    """Rows that were read already."""

    def __init__(self, meanings: Sequence[Meaning]) -> None:
        self.meanings = meanings

    def conversations(self) -> Iterator[Conversation | PlainText]:
        return (meaning.conversation for meaning in self.meanings)


def _stored(
    rows: Rows, renderer: Renderer, rules: DataRules, cache_dir: str | Path, origin: str
) -> Prepared:
    """Tokenize the rows into a store, whose key is known when all of them went by.

    Args:
        origin: see `store_writer`.
    """
    made_by = renderer.fingerprint
    with store_writer(cache_dir, origin) as writer:
        outcome = render_all(rows, renderer, rules, writer.add)
        told = [asdict(finding) for finding in outcome.findings.collected()]
        key = store_key(rows.meanings, made_by, rules)
        store = writer.finish(key, {"findings": told, "stop_ids": outcome.stop_ids()})
    return _of_store(store, rows.meanings, renderer)


def _of_store(store: TokenStore, meanings: Sequence[Meaning], renderer: Renderer) -> Prepared:
    findings = [Finding(**finding) for finding in store.extra["findings"]]
    stops = store.extra["stop_ids"]
    return _prepared(store, store.rows.tolist(), meanings, findings, renderer, stops)


def _not_stored(cache_dir: str | Path, error: OSError) -> Finding:
    message = f"tokens are kept in memory, because {cache_dir} cannot be written: {error}"
    return Finding("tokens-not-stored", "note", message, "")


def _in_memory(rows: Rows, renderer: Renderer, rules: DataRules) -> Prepared:
    examples: list[Example] = []
    outcome = render_all(rows, renderer, rules, lambda example, _: examples.append(example))
    findings = outcome.findings.collected()
    kept = examples_in_memory(examples)
    return _prepared(kept, outcome.kept, rows.meanings, findings, renderer, outcome.stop_ids())


def _prepared(
    examples: ExampleSet,
    kept: Sequence[int],
    meanings: Sequence[Meaning],
    findings: list[Finding],
    renderer: Renderer,
    stops: Sequence[int],
) -> Prepared:
    behind = Meanings(meanings[i] for i in kept)
    return Prepared(
        examples=examples,
        repeats=behind.weights.copy(),
        read=len(meanings),
        kept=len(kept),
        dropped=len(meanings) - len(kept),
        findings=findings,
        meanings=behind,
        chat_template=renderer.chat_template,
        stop_ids=tuple(stops),
    )


class _OfMeanings(Sequence[Read]):
    """What is read of meanings, when it is asked for."""

    def __init__(self, meanings: Sequence[Meaning], read: Callable[[Meaning], Read]) -> None:
        self._meanings, self._read = meanings, read

    def __len__(self) -> int:
        return len(self._meanings)

    @overload
    def __getitem__(self, index: int) -> Read: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Read]: ...

    def __getitem__(self, index: int | slice) -> Read | Sequence[Read]:
        if isinstance(index, slice):
            return _OfMeanings(self._meanings[index], self._read)
        return self._read(self._meanings[index])


def store_key(meanings: Sequence[Meaning], made_by: str, rules: DataRules) -> str:
    """Hex SHA-256 over what makes the tokens: rows, tokenizer, template, rules and this code.

    Args:
        made_by: the renderer's fingerprint.
    """
    digest = hashlib.sha256(_makers(made_by, rules).encode())
    for part in identities(meanings):
        digest.update(part)
    return digest.hexdigest()


def _makers(made_by: str, rules: DataRules) -> str:
    """What makes the tokens of rows, other than these."""
    limits = [rules.max_length, rules.too_long, rules.max_dropped, rules.context]
    return json.dumps([made_by, code_version(), limits])
