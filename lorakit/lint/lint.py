"""All rules over one recipe and its data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lorakit.data.contract import Finding
from lorakit.lint import rules
from lorakit.lint.facts import Facts
from lorakit.progress import track

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Linted:
    """What was found, and how much of it a recipe silences.

    Attributes:
        findings: errors first, then warnings, then notes.
        silenced: {id: findings left out}.
    """

    findings: list[Finding] = field(default_factory=list)
    silenced: dict[str, int] = field(default_factory=dict)


def lint(facts: Facts, *, resumes: bool = False) -> list[Finding]:
    """What every rule finds, silenced ones too: these are counted.

    Args:
        facts: of the recipe and its data.
        resumes: a run goes on that was begun before a rule existed, or with the rule silenced; what
            is wrong with it is then told as a warning, for it is not to be stopped half-way.
    """
    found = [finding for rule in track(rules(), "linting") for finding in rule.find(facts)]
    if resumes:
        return [replace(f, severity="warning") if f.severity == "error" else f for f in found]
    return found


def without_silenced(findings: Sequence[Finding], silenced: Collection[str]) -> Linted:
    """Findings in the order they are told, and a count of those left out."""
    told = [finding for finding in findings if finding.id not in silenced]
    told.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Linted(told, dict(Counter(f.id for f in findings if f.id in silenced)))


def silenced_in_words(silenced: Mapping[str, int]) -> str:
    """`1 finding of few-rows, 2 findings of near-duplicates`: one may be about many rows."""
    return ", ".join(
        f"{count} {'finding' if count == 1 else 'findings'} of {name}"
        for name, count in sorted(silenced.items())
    )
