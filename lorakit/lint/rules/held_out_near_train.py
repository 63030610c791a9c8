"""Held-out rows that train nearly has."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.data.variants import source_and_variant
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "held-out-near-train"
SEVERITIES = ("warning", "note")
TITLE = "Held-out rows that train nearly has"
REASON = (
    "A held-out row whose twin was trained on measures memory. Rows that are equal word for "
    "word were left out already (rows-shared-with-train); these differ in trifles, or ask a "
    "question of the training set with another answer."
)
SOURCE = "practice; data contamination: Lee et al. (arXiv 2107.06499), section 5"
EXAMPLE = 'train: {"prompt": "What is asthma?", ...}   in_domain: {"prompt": "what is asthma", ...}'
MEND = (
    "Remove them from train or from the held-out set; split by a group (data.group) rather "
    "than by row."
)

MIN_SHARE, MIN_ROWS = 0.02, 3


def find(facts: Facts) -> Iterator[Finding]:
    mend = "the figure flatters; remove them"
    if facts.recipe.data.group is None:
        mend += ", or split by data.group"
    for name, sample in facts.held_out.items():
        if source_and_variant(name) is not None:  # told of the set it was made of
            continue
        hits = Hits(sample)
        pairs = facts.repeats.across[name] + facts.repeats.same_prompt[name]
        for pair in sorted(pairs, key=lambda pair: pair.row.index):
            hits.add(pair.row, f"like {pair.like.where}")
        if hits.count:
            severity = "warning" if hits.count >= MIN_ROWS and hits.share >= MIN_SHARE else "note"
            yield hits.finding(
                ID,
                severity,  # type: ignore[arg-type]
                "say nearly the same as a training row, or ask what one asks",
                mend,
            )
