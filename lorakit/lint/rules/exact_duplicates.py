"""Many rows that repeat another word for word."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorakit.data.contract import EXAMPLES_SHOWN, Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import places

ID = "exact-duplicates"
SEVERITIES = ("warning",)
TITLE = "Many rows that repeat another word for word"
REASON = (
    "A row that is there ten times is learned ten times, by heart. From a twentieth of the "
    "rows on this shifts what the model learns; fewer are told by duplicate-rows, a note of "
    "the data contract. A row meant to count more gets a weight in data.train."
)
SOURCE = "Lee et al., Deduplicating Training Data Makes Language Models Better (arXiv 2107.06499)"
EXAMPLE = """\
{"prompt": "What is asthma?", "completion": "A disease of the airways."}
{"prompt": "What is asthma?", "completion": "A disease of the airways."}"""
MEND = "Remove the repetitions; sets that should count more get a weight."

MIN_SHARE, MIN_ROWS = 0.05, 5


def find(facts: Facts) -> Iterator[Finding]:
    meanings = facts.sets.train.meanings
    hashes = np.frombuffer(b"".join(m.content_hash for m in meanings), dtype="V32")
    _, first = np.unique(hashes, return_index=True)
    again = np.setdiff1d(np.arange(len(hashes)), first)
    if len(again) >= MIN_ROWS and len(again) >= MIN_SHARE * len(hashes):
        message = (
            f"train: {len(again):,} of {len(hashes):,} rows repeat an earlier one word for word: "
            "they "
            "are learned that much more; remove them, or give a set a weight"
        )
        shown = [meanings[int(i)].location for i in again[:EXAMPLES_SHOWN]]
        yield Finding(ID, "warning", message, places(shown, len(again)))
