"""Answers that repeat themselves endlessly."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "degenerate-answers"
SEVERITIES = ("warning", "note")
TITLE = "Answers that repeat themselves endlessly"
REASON = (
    "Answers that a model wrote while it was stuck (the same words over and over) teach to "
    "get stuck. Told by how far a text shrinks when compressed."
)
SOURCE = "Holtzman et al., The Curious Case of Neural Text Degeneration (arXiv 1904.09751)"
EXAMPLE = '{"prompt": "...", "completion": "the dose the dose the dose the dose ..."}'
MEND = "Remove those rows."

MIN_CHARACTERS = 300
STUCK = 0.1  # compressed size over size; prose has 0.4 to 0.6, tables 0.15 to 0.3
MIN_SHARE = 0.005


def find(facts: Facts) -> Iterator[Finding]:
    hits = Hits(facts.train)
    for row in facts.train.chats:
        said = row.answer[:4_000].encode("utf-8", "replace")
        if len(said) >= MIN_CHARACTERS and len(zlib.compress(said, 1)) < STUCK * len(said):
            hits.add(row, row.answer)
    if hits.count:
        severity = "warning" if hits.share >= MIN_SHARE else "note"
        yield hits.finding(
            ID,
            severity,  # type: ignore[arg-type]
            "repeat the same words over and over in their answer",
            "remove them: the model learns to get stuck",
        )
