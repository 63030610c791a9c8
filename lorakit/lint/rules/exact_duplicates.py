"""Many rows that repeat another word for word."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorakit.data.contract import EXAMPLES_SHOWN, Finding
from lorakit.data.prepare import Prepared
from lorakit.data.variants import source_and_variant
from lorakit.lint.facts import Facts
from lorakit.lint.told import places

ID = "exact-duplicates"
SEVERITIES = ("warning",)
TITLE = "Many rows that repeat another word for word"
REASON = (
    "A row that is there ten times is learned ten times, by heart. From a twentieth of the "
    "rows on this shifts what the model learns; fewer are told by duplicate-rows, a note of "
    "the data contract. A row meant to count more gets a weight in data.train. In a set that "
    "measures, copies are no further examples: the mean leans to them, and of n rows with c "
    "copies each only n^2 / sum(c^2) count (Kish), so that intervals are too narrow by the root "
    "of n over that: from 10 % on this is told."
)
SOURCE = (
    "Lee et al., Deduplicating Training Data Makes Language Models Better (arXiv 2107.06499); "
    "Kish, Survey Sampling (1965), chapter 8, for the effective size"
)
EXAMPLE = """\
{"prompt": "What is asthma?", "completion": "A disease of the airways."}
{"prompt": "What is asthma?", "completion": "A disease of the airways."}"""
MEND = "Remove the repetitions; sets that should count more get a weight."

MIN_SHARE, MIN_ROWS = 0.05, 5
TOO_NARROW = 1.1  # an interval that should be so many times as wide
MIN_COPIES = 3  # in a set that measures


def find(facts: Facts) -> Iterator[Finding]:
    again, _ = _repeated(facts.sets.train)
    num_rows = len(facts.sets.train.meanings)
    if len(again) >= MIN_ROWS and len(again) >= MIN_SHARE * num_rows:
        message = (
            f"train: {len(again):,} of {num_rows:,} rows repeat an earlier one word for word: they "
            "are learned that much more; remove them, or give a set a weight"
        )
        yield Finding(ID, "warning", message, _places(facts.sets.train, again))
    for name, prepared in facts.held_out_sets.items():
        again, effective = _repeated(prepared)
        narrow = (len(prepared.meanings) / effective) ** 0.5
        if source_and_variant(name) is None and len(again) >= MIN_COPIES and narrow >= TOO_NARROW:
            message = (
                f"{name}: {len(again):,} of {len(prepared.meanings):,} rows repeat an earlier one "
                f"word for word: they count as {effective:,.0f} different ones would, so intervals "
                f"are {narrow:.1f} times too narrow, and the mean leans to them; keep one of each"
            )
            yield Finding(ID, "warning", message, _places(prepared, again))


def _repeated(prepared: Prepared) -> tuple[np.ndarray, float]:
    """int64: which rows repeat an earlier one; and how many different ones all rows count as."""
    hashes = np.frombuffer(b"".join(m.content_hash for m in prepared.meanings), dtype="V32")
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    again = np.setdiff1d(np.arange(len(hashes)), first)
    return again, len(hashes) ** 2 / float((counts.astype(np.float64) ** 2).sum())


def _places(prepared: Prepared, again: np.ndarray) -> str:
    shown = [prepared.meanings[int(i)].location for i in again[:EXAMPLES_SHOWN]]
    return places(shown, len(again))
