"""Ids of the findings that a recipe may silence: those of rules, and those of other rooms."""

from __future__ import annotations

from pathlib import Path

# Of the data contract (`data/contract.py`) and of evaluation; a test holds them to those.
CONTRACT_FINDINGS = (
    "content-dropped",
    "duplicate-rows",
    "groups-shared-with-train",
    "in-domain-decides-when-to-stop",
    "marker-starts-elsewhere",
    "no-trained-token",
    "prefix-mismatch",
    "rows-shared-with-train",
    "rows-shared-with-validation",
    "rows-too-long",
    "special-token-in-text",
    "stop-added",
    "stop-differs",
    "stop-in-next-message",
    "system-folded",
    "template-refused",
    "template-uses-date",
    "thinking-doubled",
    "thinking-dropped",
    "tokens-not-stored",
    "too-few-to-tell",
    "tools-dropped",
    "turn-not-marked",
    "whitespace-trimmed",
)


def finding_names() -> tuple[str, ...]:
    """Every id, sorted; rules are found by listing their folder, without importing them."""
    folder = Path(__file__).parents[1] / "lint" / "rules"
    rules = (path.stem.replace("_", "-") for path in folder.glob("*.py") if path.stem[0] != "_")
    return tuple(sorted((*rules, *CONTRACT_FINDINGS)))
