"""The rows of a set with their prompts said otherwise (`variants/`): answers stay word for word.

What a prompt becomes is a function of the seed, the variant and the prompt alone, so that neither
the order nor the number of rows changes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.code_version import code_version
from lorakit.data.contract import Findings
from lorakit.data.conversation import Conversation, PlainText
from lorakit.data.free_text import join_free, split_free
from lorakit.data.meanings import Meaning, identities
from lorakit.data.prepare import Prepared, prepare_meanings
from lorakit.data.reading import DataRules
from lorakit.data.row_set import content_of, said_in
from lorakit.data.sources import Row
from lorakit.data.variants import variant
from lorakit.errors import DataError


def vary_text(text: str, name: str, *, seed: int) -> str:
    """A prompt said otherwise.

    Args:
        text: of one message.
        name: of a variant.
        seed: another seed makes other slips.
    """
    digest = hashlib.sha256(f"{seed}\0{name}\0{text}".encode("utf-8", "surrogatepass")).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    free, kept = split_free(text)
    return join_free(variant(name).vary(free, generator, kept), kept)


def vary_conversation(
    meant: Conversation | PlainText, name: str, *, seed: int
) -> Conversation | PlainText:
    """What a row means with every user message said otherwise; plain text has none."""
    if isinstance(meant, PlainText):
        return meant
    messages = tuple(
        message
        if message["role"] != "user" or "content" not in message
        else message | {"content": _vary_content(message["content"], name, seed)}
        for message in meant.messages
    )
    choices = meant.choices
    if choices is not None:  # what is asked where the options are left out
        choices = replace(choices, question=vary_text(choices.question, name, seed=seed))
    return replace(meant, messages=messages, choices=choices)


def _vary_content(content: Any, name: str, seed: int) -> Any:
    if isinstance(content, str):
        return vary_text(content, name, seed=seed)
    return [
        part | {"text": vary_text(part["text"], name, seed=seed)} if "text" in part else part
        for part in content
    ]


def varied(meanings: Sequence[Meaning], name: str, *, seed: int) -> list[Meaning]:
    """The same rows in the same places, their prompts said otherwise."""
    rows = _VariedRows(meanings, name, seed)
    return [Meaning(rows, i, meaning.weight) for i, meaning in enumerate(meanings)]


def prepare_varied(
    kept: Sequence[Meaning],
    source: Prepared,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    rules: DataRules,
    *,
    seed: int,
    cache_dir: str | Path | None = None,
) -> Prepared:
    """The rows of in_domain with their prompts said otherwise.

    Args:
        kept: the rows that in_domain has.
        source: what became of them; its findings are not told again.
        name: of a variant.
        seed: see `vary_text`.

    Raises:
        DataError: nothing in any prompt could be changed.
    """
    changed, findings = varied(kept, name, seed=seed), Findings()
    for before, after in zip(kept, changed, strict=True):
        if before.said_hash == after.said_hash:
            findings.add("prompts-not-varied", before.location)
    if findings.count("prompts-not-varied") == len(kept):
        raise DataError(
            f"not one of the {len(kept)} prompts of in_domain has anything that it could change "
            "(plain text has no prompt). Remove it from evaluate.variants."
        )
    ready = prepare_meanings(changed, tokenizer, rules, cache_dir=cache_dir)
    known = {(finding.id, finding.where) for finding in source.findings}
    own = [finding for finding in ready.findings if (finding.id, finding.where) not in known]
    return replace(ready, findings=findings.collected() + own)


class _VariedRows:
    """Rows by position, as `meanings.Rows` wants them; varied anew whenever they are asked for."""

    def __init__(self, meanings: Sequence[Meaning], name: str, seed: int) -> None:
        self._meanings, self._name, self._seed = meanings, name, seed

    @property
    def held_bytes(self) -> int:
        """None of its own: rows are those of another set."""
        return 0

    def forget(self) -> None:
        """The other set does."""

    def row(self, index: int) -> Row:
        """The row as read: not varied."""
        return self._meanings[index].row

    def location(self, index: int) -> str:
        return self._meanings[index].location

    def conversation(self, index: int) -> Conversation | PlainText:
        return vary_conversation(self._meanings[index].conversation, self._name, seed=self._seed)

    def content_hash(self, index: int) -> bytes:
        return hashlib.sha256(content_of(self.conversation(index))).digest()

    def said_hash(self, index: int) -> bytes:
        return hashlib.sha256(said_in(self.conversation(index))).digest()

    def identity(self, indices: np.ndarray) -> bytes:
        # How prompts are varied, and not what they became: for that all would be varied. The
        # version covers the variants' code and what they know (`synonyms`).
        digest = hashlib.sha256(f"{self._name}\0{self._seed}\0{code_version()}".encode())
        for part in identities([self._meanings[i] for i in indices.tolist()]):
            digest.update(part)
        return digest.digest()
