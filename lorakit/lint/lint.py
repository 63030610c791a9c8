"""All rules over one recipe and its data."""

from __future__ import annotations

from dataclasses import replace

from lorakit.data.contract import Finding
from lorakit.lint import rules
from lorakit.lint.facts import Facts
from lorakit.progress import track


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
