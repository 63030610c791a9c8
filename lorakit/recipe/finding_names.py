"""Ids of the findings that a recipe may silence: of rules, of watchers, and of other rooms."""

from __future__ import annotations

from lorakit.recipe.rules.fault import names_in

# Of the data contract (`data/contract.py`) and of evaluation; a test holds them to those.
CONTRACT_FINDINGS = (
    "content-dropped",
    "duplicate-rows",
    "groups-shared-with-train",
    "in-domain-decides-when-to-stop",
    "marker-starts-elsewhere",
    "no-trained-token",
    "prefix-mismatch",
    "prompts-not-varied",
    "rows-of-held-out-topics",
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
    "topics-held-out",
    "turn-not-marked",
    "whitespace-trimmed",
)


def finding_names() -> tuple[str, ...]:
    """Every id, sorted."""
    return tuple(sorted((*_ids_in("lint/rules"), *watcher_names(), *CONTRACT_FINDINGS)))


def watcher_names() -> tuple[str, ...]:
    """Ids of what is seen while training, sorted."""
    return _ids_in("train/watchers")


def _ids_in(folder: str) -> tuple[str, ...]:
    return tuple(name.replace("_", "-") for name in names_in(folder))
