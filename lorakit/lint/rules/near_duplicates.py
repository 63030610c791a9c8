"""Rows that say nearly the same as another."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "near-duplicates"
SEVERITIES = ("warning", "note")
TITLE = "Rows that say nearly the same as another"
REASON = (
    "Rows that differ in case, punctuation, a typing error or a stop word are duplicates that "
    "no exact comparison finds. Rows of one template about different topics, numbers or "
    "answers are not. From a twentieth of the rows on it is a warning."
)
SOURCE = "Lee et al. (arXiv 2107.06499): near duplicates by MinHash; Broder 1997"
EXAMPLE = """\
{"prompt": "What is asthma?", "completion": "A disease of the airways that ..."}
{"prompt": "what is  asthma", "completion": "A disease of the airways that ..."}"""
MEND = "Keep one of each; rephrase on purpose only where the answers differ too."

MIN_SHARE, MIN_ROWS = 0.05, 5


def find(facts: Facts) -> Iterator[Finding]:
    hits = Hits(facts.train)
    for pair in facts.repeats.within:
        hits.add(pair.row, f"like {pair.like.where}")
    if hits.count:
        severity = "warning" if hits.count >= MIN_ROWS and hits.share >= MIN_SHARE else "note"
        yield hits.finding(
            ID,
            severity,  # type: ignore[arg-type]
            "say nearly the same as an earlier one",
            "keep one of each: they are learned that much more",
        )
