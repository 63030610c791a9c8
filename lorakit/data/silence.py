"""Findings that a recipe silences (`check.silence`): they are counted instead of told."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorakit.data.contract import Finding

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Told:
    """What was found, and how much of it a recipe silences.

    Attributes:
        findings: errors first, then warnings, then notes.
        silenced: {id: findings left out}.
    """

    findings: list[Finding] = field(default_factory=list)
    silenced: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For a line of the metrics: only what is there."""
        found = [finding.to_json() for finding in self.findings]
        values = {"findings": found, "silenced": self.silenced}
        return {name: value for name, value in values.items() if value}

    def say(self, log: logging.Logger) -> None:
        """A line of the log for each finding, and one for all that is left out."""
        for finding in self.findings:
            log.warning("%s", finding.in_words())
        if self.silenced:
            log.warning("check.silence leaves out: %s", silenced_in_words(self.silenced))


def without_silenced(findings: Sequence[Finding], silenced: Collection[str]) -> Told:
    """Findings in the order they are told, and a count of those left out."""
    told = [finding for finding in findings if finding.id not in silenced]
    told.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Told(told, dict(Counter(f.id for f in findings if f.id in silenced)))


def silenced_in_words(silenced: Mapping[str, int]) -> str:
    """`1 finding of few-rows, 2 findings of near-duplicates`: one may be about many rows."""
    return ", ".join(
        f"{count} {'finding' if count == 1 else 'findings'} of {name}"
        for name, count in sorted(silenced.items())
    )
