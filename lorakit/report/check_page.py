"""The page of `lorakit check`: rows, lengths, findings with their reasons, and what is trained."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerBase

from lorakit.data.contract import Finding
from lorakit.data.facts import examples_facts, set_facts
from lorakit.data.prepare import Prepared
from lorakit.data.row_use import TRAINED, row_use
from lorakit.lint.kinds import kinds
from lorakit.recipe import Recipe
from lorakit.report.data_files import DataFacts, FoundFact
from lorakit.report.data_view import examples_by_use, histograms_of
from lorakit.report.order import Told
from lorakit.report.part import Part
from lorakit.report.recipes import settings_of
from lorakit.report.render import render, write_page
from lorakit.report.words import capital, counted, listed

SECTIONS = {
    "verdict": "Check",
    "findings": "Findings",
    "rows": "Rows",
    "trained": TRAINED.title,
    "recipe": "Recipe",
    "next": "Next",
}
SEVERITIES = ("error", "warning", "note")
NUM_EXAMPLES = 3  # a short, a typical and a long one


class Explained(Part):
    """What the docs say of a kind of finding."""

    title: str
    reason: str
    source: str
    mend: str = ""
    example: str = ""
    can_be_silenced: bool = True


class Checked(DataFacts):
    """What was checked.

    Attributes:
        stops: texts of the tokens that end an answer.
        silenced: {id: findings that the recipe keeps quiet}.
        explained: {id: what its page in the docs says}.
    """

    stops: tuple[str, ...] = ()
    silenced: dict[str, int] | None = None
    explained: Annotated[dict[str, Explained] | None, Told] = None


@dataclass(frozen=True)
class Group:
    """The findings of one severity."""

    title: str
    severity: str
    findings: list[FoundFact]


def check_facts(
    sets: Mapping[str, Prepared],
    findings: Sequence[Finding],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    num_examples: int = NUM_EXAMPLES,
    silenced: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What the page is made of, as plain values.

    Args:
        sets: {train, validation, ..., warm_start.train}; none when one of them is refused.
        num_examples: of training examples, and of a warm start's, spread over their lengths.
        silenced: see `Checked`.
    """
    stops = []
    quantiles = [(place + 0.5) / num_examples for place in range(num_examples)]
    if "train" in sets:
        stops = [str(tokenizer.decode([token])) for token in sets["train"].stop_ids]
    return {
        "sets": {name: set_facts(one, max_length) for name, one in sets.items()},
        "findings": [finding.to_json() for finding in findings],
        "examples": examples_facts(sets, tokenizer, quantiles),
        "stops": stops,
        "silenced": dict(silenced or {}),
        "explained": _explained({*(one.id for one in findings), *(silenced or {})}),
    }


def _explained(ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """What findings of these ids mean, as their pages in docs/rules say."""
    return {name: vars(kind) for name, kind in kinds().items() if name in ids}


def write_check_page(
    facts: Mapping[str, Any], recipe: Recipe, *, source: Path, output: Path
) -> Path:
    """Make the page of a check.

    Args:
        facts: see `check_facts`.
        recipe: what was checked.
        source: its file.
        output: where the page goes, in place of another page of lorakit's if need be.

    Raises:
        InputError: another file would be overwritten, or its folder is not there.
    """
    write_page(output, check_page(facts, recipe, source=source), option="--html")
    return output


def check_page(facts: Mapping[str, Any], recipe: Recipe, *, source: Path) -> str:
    """The HTML of a check."""
    checked = TypeAdapter(Checked).validate_python(dict(facts))
    use = row_use(is_policy=recipe.train.method == "grpo")
    groups = [
        Group(f"{capital(severity)}s", severity, found)
        for severity in SEVERITIES
        if (found := [one for one in checked.findings if one.severity == severity])
    ]
    return render(
        "check.html.jinja",
        title=f"{source.stem}: lorakit check",
        sections=list((SECTIONS | {"trained": use.title}).items()),
        name=source.stem,
        source=str(source),
        headline=headline(checked),
        effect=_effect(checked),
        sets=checked.sets,
        groups=groups,
        explained=checked.explained or {},
        silenced=checked.silenced or {},
        histograms=histograms_of(checked.sets),
        shown=examples_by_use(checked.examples, use, checked.stops),
        use=use,
        settings=settings_of(recipe),
        commands=_commands(source),
    )


def headline(checked: Checked) -> str:
    """The one thing to know."""
    counts = {
        severity: sum(one.severity == severity for one in checked.findings)
        for severity in SEVERITIES
    }
    if not checked.findings:
        return "Nothing speaks against training this."
    told = [counted(number, severity) for severity, number in counts.items() if number]
    if counts["error"]:
        return f"{listed(told)}: training this would be wrong."
    if counts["warning"]:
        return f"{listed(told)}: it can be trained, but read these first."
    return f"{listed(told)}: nothing that speaks against training."


def _effect(checked: Checked) -> str:
    """Which of the page's marks the headline gets."""
    found = {one.severity for one in checked.findings}
    return "worse" if "error" in found else "same" if "warning" in found else "better"


def _commands(source: Path) -> list[tuple[str, str]]:
    recipe = shlex.quote(str(source))
    return [
        ("What it will take", f"lorakit plan {recipe}"),
        ("Train", f"lorakit train {recipe}"),
        ("See more examples in the terminal", f"lorakit check {recipe} --show 10"),
    ]
