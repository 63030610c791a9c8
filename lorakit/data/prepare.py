"""Rows in, examples out: read, convert, render, and hold every row to the data contract."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, overload

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.code_version import code_version
from lorakit.data.contract import Finding, Findings, too_long_meaning
from lorakit.data.examples import Example, ExampleSet, examples_in_memory
from lorakit.data.garbage import collection_paused
from lorakit.data.meanings import DataRules, Meaning, read_meanings
from lorakit.data.render import Renderer
from lorakit.data.render_many import render_many
from lorakit.data.sources import Row
from lorakit.data.store import open_store, store_writer
from lorakit.errors import DataError
from lorakit.progress import track


@dataclass(frozen=True)
class Prepared:
    """What became of the rows.

    Attributes:
        examples: the examples, in reading order.
        repeats: float64 (number of examples,), how often each is seen per epoch.
        read, kept, dropped: rows.
        findings: of the data contract.
        rows: rows behind the examples, one each, in the same order; of a large set they are read
            again when they are asked for.
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
    rows: Sequence[Row]
    chat_template: str
    stop_ids: tuple[int, ...]


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
        cache_dir: where tokens are kept on disk, memory-mapped; None: in memory.

    Raises:
        DataError: a fault in a row (file and line named), nothing left to train, more than
            max_dropped of the rows to be dropped, or a too long row under too_long: error.
    """
    meanings = read_meanings(sources, rules, cache_dir=cache_dir)
    return prepare_meanings(meanings, tokenizer, rules, cache_dir=cache_dir)


def prepare_meanings(
    meanings: Sequence[Meaning],
    tokenizer: PreTrainedTokenizerBase,
    rules: DataRules,
    *,
    cache_dir: str | Path | None = None,
) -> Prepared:
    """As `prepare_examples`, for rows that were read already."""
    renderer = Renderer(tokenizer, trained=rules.trained, chat_template=rules.chat_template)
    key = store_key(meanings, renderer, rules)
    store = None if cache_dir is None else open_store(cache_dir, key)
    if store is not None:
        findings = [Finding(**finding) for finding in store.extra["findings"]]
        stops = store.extra["stop_ids"]
        return _prepared(store, store.rows.tolist(), meanings, findings, renderer, stops)
    if cache_dir is None:
        return _in_memory(meanings, renderer, rules)
    try:
        with store_writer(cache_dir, key) as writer:
            outcome = _render_all(meanings, renderer, rules, writer.add)
            findings, stops = outcome.findings.collected(), outcome.stop_ids()
            told = [asdict(finding) for finding in findings]
            writer.extra = {"findings": told, "stop_ids": stops}
        store = writer.store()
    except OSError as error:  # a run must not fail for want of a cache
        message = f"tokens are kept in memory, because {cache_dir} cannot be written: {error}"
        prepared = _in_memory(meanings, renderer, rules)
        prepared.findings.append(Finding("tokens-not-stored", "note", message, ""))
        return prepared
    return _prepared(store, outcome.kept, meanings, findings, renderer, stops)


def _in_memory(meanings: Sequence[Meaning], renderer: Renderer, rules: DataRules) -> Prepared:
    examples: list[Example] = []
    outcome = _render_all(meanings, renderer, rules, lambda example, _: examples.append(example))
    findings = outcome.findings.collected()
    kept = examples_in_memory(examples)
    return _prepared(kept, outcome.kept, meanings, findings, renderer, outcome.stop_ids())


def _prepared(
    examples: ExampleSet,
    kept: Sequence[int],
    meanings: Sequence[Meaning],
    findings: list[Finding],
    renderer: Renderer,
    stops: Sequence[int],
) -> Prepared:
    return Prepared(
        examples=examples,
        repeats=np.array([meanings[i].weight for i in kept], dtype=np.float64),
        read=len(meanings),
        kept=len(kept),
        dropped=len(meanings) - len(kept),
        findings=findings,
        rows=_Rows([meanings[i] for i in kept]),
        chat_template=renderer.chat_template,
        stop_ids=tuple(stops),
    )


class _Rows(Sequence[Row]):
    """The rows of meanings, read when they are asked for."""

    def __init__(self, meanings: Sequence[Meaning]) -> None:
        self._meanings = meanings

    def __len__(self) -> int:
        return len(self._meanings)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return _Rows(self._meanings[index])
        return self._meanings[index].row


@dataclass
class _Outcome:
    kept: list[int]
    too_long: list[tuple[int, str]]  # (tokens, location)
    findings: Findings
    stops: Counter[int]

    def stop_ids(self) -> list[int]:
        return [token for token, _ in self.stops.most_common()]


def _render_all(
    meanings: Sequence[Meaning],
    renderer: Renderer,
    rules: DataRules,
    take: Callable[[Example, int], None],
) -> _Outcome:
    """Render every row; `take` gets those that are kept, with their positions."""
    outcome = _Outcome([], [], Findings(), Counter())
    seen: set[bytes] = set()
    rows = render_many(renderer, (meaning.conversation for meaning in meanings))
    with collection_paused():
        for i, rendered in enumerate(track(rows, "tokenizing", len(meanings))):
            meaning = meanings[i]
            where = meaning.location
            if isinstance(rendered, DataError):
                outcome.findings.add("template-refused", where, str(rendered))
                continue
            example = rendered.example
            if rules.max_length is not None and example.num_tokens > rules.max_length:
                outcome.too_long.append((example.num_tokens, where))
                outcome.findings.add("rows-too-long", where, f"{example.num_tokens} tokens")
            elif not example.num_trained_tokens:
                outcome.findings.add("no-trained-token", where)
            else:
                for finding_id, detail in rendered.notes:
                    outcome.findings.add(finding_id, where, detail)
                if meaning.content_hash in seen:
                    outcome.findings.add("duplicate-rows", where)
                seen.add(meaning.content_hash)
                take(example, i)
                outcome.kept.append(i)
                outcome.stops.update(rendered.stop_ids)
    _check_share(outcome, len(meanings), rules)
    if rules.max_length is not None:
        outcome.findings.explain("rows-too-long", too_long_meaning(rules.max_length, rules.context))
    if renderer.template.uses_date:
        outcome.findings.add("template-uses-date", "", f"made on {date.today().isoformat()}")
    return outcome


def _check_share(outcome: _Outcome, read: int, rules: DataRules) -> None:
    """Stop when too few rows are left to be what the user meant."""
    if outcome.too_long and rules.too_long == "error":
        tokens, where = max(outcome.too_long)
        raise DataError(
            f"{len(outcome.too_long)} of {read} rows are longer than max_length "
            f"{rules.max_length}; the longest, {where}, has {tokens} tokens. Raise max_length, "
            "shorten those rows, or set too_long: drop."
        )
    dropped = read - len(outcome.kept)
    if outcome.kept and dropped <= rules.max_dropped * read:
        return
    reasons = [
        f"{count} {text}"
        for count, text in (
            (len(outcome.too_long), f"longer than max_length {rules.max_length}"),
            (outcome.findings.count("template-refused"), "refused by the chat template"),
            (outcome.findings.count("no-trained-token"), "without a trained token"),
        )
        if count
    ]
    raise DataError(
        f"{dropped} of {read} rows would be dropped ({', '.join(reasons)}); max_dropped allows "
        f"{rules.max_dropped:.0%}. {_advice(outcome, read, rules)}"
    )


def _advice(outcome: _Outcome, read: int, rules: DataRules) -> str:
    advice = []
    if outcome.too_long:
        lengths = sorted(tokens for tokens, _ in outcome.too_long)
        others = read - len(outcome.kept) - len(lengths)
        may_lose = max(0, int(rules.max_dropped * read) - others)
        if may_lose < len(lengths):
            advice.append(_length_advice(lengths[-1 - may_lose], lengths[-1], rules.context))
    for finding_id in ("template-refused", "no-trained-token"):
        if outcome.findings.count(finding_id):
            detail = outcome.findings.detail(finding_id)
            where = next(f.where for f in outcome.findings.collected() if f.id == finding_id)
            hint = "Check `trained` and the messages' weights." if not detail else "Fix the rows."
            advice.append(f"{where}: {detail or 'nothing in it is trained'}. {hint}")
    return " ".join(advice)


def _length_advice(enough: int, longest: int, context: int | None) -> str:
    """What to do about rows that are too long.

    Args:
        enough, longest: tokens that keep enough of the rows, and all of them.
        context: of the base; None: no limit is known.
    """
    if context is not None and enough > context:
        return (
            f"max_length {enough} would keep enough of them, but the base cannot go beyond its "
            f"context of {context}; split the long rows, choose another base, or raise max_dropped."
        )
    return (
        f"max_length {enough} would keep enough of them, {longest} all; set it (up to the model's "
        "context), split the long rows, or raise max_dropped."
    )


def store_key(meanings: Sequence[Meaning], renderer: Renderer, rules: DataRules) -> str:
    """Hex SHA-256 over what makes the tokens: rows, tokenizer, template, rules and this code."""
    digest = hashlib.sha256(f"{renderer.fingerprint}\0{code_version()}".encode())
    limits = [rules.max_length, rules.too_long, rules.max_dropped, rules.context]
    digest.update(json.dumps(limits).encode())
    for meaning in meanings:  # where it stands, too: kept findings name places
        digest.update(meaning.content_hash + meaning.location.encode() + b"\0")
    return digest.hexdigest()
