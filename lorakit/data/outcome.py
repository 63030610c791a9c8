"""Rows to examples, each held to the data contract; what is left must be what the user meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import numpy as np

from lorakit.data.contract import Findings, too_long_meaning
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.examples import Example
from lorakit.data.garbage import collection_paused
from lorakit.data.meanings import Meaning
from lorakit.data.reading import DataRules
from lorakit.data.render import Renderer
from lorakit.data.render_many import render_many
from lorakit.errors import DataError
from lorakit.progress import track


class Rows(Protocol):
    """Rows to be tokenized, which may still have to be read."""

    @property
    def meanings(self) -> Sequence[Meaning]:
        """Of the rows read so far."""

    def conversations(self) -> Iterator[Conversation | PlainText]:
        """What they mean, in order; each is in `meanings` before it comes."""


_HASH = np.dtype("V32")  # SHA-256


@dataclass
class Outcome:
    """What became of the rows so far: positions of those kept, and what is to be said."""

    kept: list[int]
    too_long: list[tuple[int, str]]  # (tokens, location)
    findings: Findings
    stops: Counter[tuple[int, ...]]  # stop tokens of rows

    def stop_ids(self) -> list[int]:
        """Tokens that end trained turns, those of the most rows first."""
        rows: Counter[int] = Counter()
        for tokens, count in self.stops.items():
            rows.update(dict.fromkeys(tokens, count))
        return [token for token, _ in rows.most_common()]


def render_all(
    rows: Rows, renderer: Renderer, rules: DataRules, take: Callable[[Example, int], None]
) -> Outcome:
    """Render every row.

    Args:
        take: is given those that are kept, with their positions.

    Raises:
        DataError: see `prepare_examples`.
    """
    outcome = Outcome([], [], Findings(), Counter())
    meanings = rows.meanings
    total = len(meanings) or None  # rows that are still to be read are not counted
    rendering = render_many(renderer, rows.conversations())
    with collection_paused(), closing(rendering):  # whatever happens, its threads end
        for i, rendered in enumerate(track(rendering, "tokenizing", total)):
            meaning = meanings[i]
            if isinstance(rendered, DataError):
                outcome.findings.add("template-refused", meaning.location, str(rendered))
                continue
            example = rendered.example
            if rules.max_length is not None and example.num_tokens > rules.max_length:
                where = meaning.location
                outcome.too_long.append((example.num_tokens, where))
                outcome.findings.add("rows-too-long", where, f"{example.num_tokens} tokens")
            elif not example.num_trained_tokens:
                why = _why_untrained(meaning.conversation)
                outcome.findings.add("no-trained-token", meaning.location, why)
            else:
                for finding_id, detail in rendered.notes:
                    outcome.findings.add(finding_id, meaning.location, detail)
                take(example, i)
                outcome.kept.append(i)
                outcome.stops[rendered.stop_ids] += 1
    _check_share(outcome, len(meanings), rules)
    for i in _repeating(meanings, outcome.kept):
        outcome.findings.add("duplicate-rows", meanings[i].location)
    if rules.max_length is not None:
        outcome.findings.explain("rows-too-long", too_long_meaning(rules.max_length, rules.context))
    if renderer.template.uses_date:
        outcome.findings.add("template-uses-date", "", f"made on {date.today().isoformat()}")
    return outcome


def _why_untrained(said: Conversation | PlainText) -> str:
    """The cause that the row itself shows; "" where it lies in `trained` or in weights."""
    if isinstance(said, PlainText) or any(one["role"] == "assistant" for one in said.messages):
        return ""
    return "none of its messages is the assistant's"


def _repeating(meanings: Sequence[Meaning], kept: Sequence[int]) -> list[int]:
    """Those of the kept rows that say the same as an earlier one."""
    hashes = np.frombuffer(b"".join(meanings[i].content_hash for i in kept), dtype=_HASH)
    _, first = np.unique(hashes, return_index=True)
    again = np.ones(len(hashes), dtype=bool)
    again[first] = False
    return [kept[i] for i in np.flatnonzero(again).tolist()]


def _check_share(outcome: Outcome, read: int, rules: DataRules) -> None:
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


def _advice(outcome: Outcome, read: int, rules: DataRules) -> str:
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
