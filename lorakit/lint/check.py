"""A recipe and its data, looked at before anything is trained: contract, sizes and rules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lorakit.base.from_recipe import load_tokenizer_of_base
from lorakit.data.contract import Finding
from lorakit.data.named_sets import (
    prepare_named_sets,
    rules_of,
    specs_of,
    training_rules,
)
from lorakit.data.prepare import Prepared
from lorakit.data.reading import read_meanings
from lorakit.data.silence import Told, without_silenced
from lorakit.errors import DataError
from lorakit.evaluate.drawn import check_measurable
from lorakit.evaluate.enough import too_few_findings
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.outside import check_outside
from lorakit.lint.facts import Facts
from lorakit.lint.hardware import hardware_of
from lorakit.lint.lint import lint
from lorakit.plan.blueprint import Workbench
from lorakit.plan.plan import plan
from lorakit.plan.rows import Sets
from lorakit.recipe import Recipe
from lorakit.recipe.sections.evaluate import EVALUATION_SETS
from lorakit.recipe.sections.stage import StageSection
from lorakit.recipe.sections.warm_start import WarmStartSection
from lorakit.recipe.warm_start import FOLDER, ROWS, warm_start_recipe
from lorakit.train.from_recipe import check_reward_calls, check_rewards_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckReport:
    """What `check` found; nothing was trained.

    Attributes:
        sets: {train, validation, in_domain, ..., warm_start.train: what became of its rows}; none
            when one of them is refused.
        findings: of all sets and of the recipe, errors first.
        tokenizer: to show examples with.
        silenced: {id: findings that the recipe silences}.
    """

    sets: dict[str, Prepared]
    findings: list[Finding]
    tokenizer: PreTrainedTokenizerBase
    silenced: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The shape of `lorakit check --json`; rows and tokens are those of the training set, and
        null when a set was refused."""
        rows = {
            name: {"read": one.read, "kept": one.kept, "dropped": one.dropped}
            for name, one in self.sets.items()
        }
        train = self.sets.get("train")
        return {
            "rows": rows.get("train"),
            "tokens": None if train is None else int(train.examples.lengths.sum()),
            "trained_tokens": None if train is None else int(train.examples.trained_lengths.sum()),
            "findings": [finding.to_json() for finding in self.findings],
            "silenced": self.silenced,
            "sets": rows,
        }


def check(recipe: Recipe) -> CheckReport:
    """Read and render every set of a recipe, and hold it to the data contract. Trains nothing.

    Rows that cannot be used, and data of which too few can, are findings `data-refused`, errors
    that stop `train`; whatever else is found is told of the other rows. The adapter is attached to
    a base without weights, so that targets that match nothing are found too.

    Raises:
        InputError: recipe, adapter, tokenizer, a file of the data or the call of a reward function
            cannot work.
    """
    measures = Measures.from_section(recipe.evaluate, seed=recipe.train.seed)
    check_outside(recipe.evaluate, asks=False)
    check_rewards_of(recipe)
    tokenizer, config = load_tokenizer_of_base(recipe.base)
    refused: list[DataError] = []
    try:
        sets = prepare_named_sets(recipe, tokenizer, config, refused=refused)
        check_measurable(sets.evaluation, measures, sets.train.stop_ids)
    except DataError as error:
        refused = _read_every_set(recipe, config)  # a file that cannot be read is no finding
        return CheckReport({}, _refusals([*refused, error]), tokenizer)
    check_reward_calls(recipe, sets)
    bench = Workbench()
    make_plan = cache(lambda: plan(recipe, sets=Sets.of(sets), bench=bench))
    make_plan()  # adapter and base must be possible, whatever the rules ask for
    facts = Facts(recipe, sets, tokenizer, config, hardware_of(recipe.base), make_plan, bench)
    found = findings_of(facts, measures, sets.train.stop_ids)
    findings = [*_refusals(refused), *found.findings]
    return CheckReport(sets.shown(), findings, tokenizer, found.silenced)


def _refusals(refused: Sequence[DataError]) -> list[Finding]:
    return [Finding("data-refused", "error", str(error), "") for error in refused]


def _read_every_set(recipe: Recipe, config: PretrainedConfig) -> list[DataError]:
    """The faults of rows in all sets.

    Raises:
        DataError: of the first set none of whose rows can be read.
    """
    refused: list[DataError] = []
    rules = rules_of(recipe.data, config)
    named = [getattr(recipe.evaluate, name) for name in EVALUATION_SETS]
    read_meanings(specs_of(recipe.data.train), training_rules(recipe, config), refused=refused)
    for sources in (recipe.data.validation, *named):
        if sources is not None and not isinstance(sources, float):
            read_meanings(specs_of(sources), rules, refused=refused)
    return refused


def findings_of(
    facts: Facts, measures: Measures, stop_ids: Sequence[int], *, resumes: bool = False
) -> Told:
    """What is to be said about rows and recipe, and about sets too small for a verdict."""
    sets = facts.sets
    few = too_few_findings(sets.by_name(), list(sets.evaluation), measures, stop_ids)
    found = [*sets.findings(), *few, *lint(facts, resumes=resumes)]
    found += _of_warm_start(facts, found, resumes=resumes)
    return without_silenced(found, facts.recipe.check.silence)


def _of_warm_start(facts: Facts, told: Sequence[Finding], *, resumes: bool) -> list[Finding]:
    """What is to be said about the warm start, and was not told of the rest."""
    stage, sets = warm_start_recipe(facts.recipe), facts.sets.warm_start
    if stage is None or sets is None:
        return []
    own = replace(facts, recipe=stage, sets=sets, make_plan=None)  # the plan is of both stages
    known = {(finding.id, finding.message) for finding in told}
    found = [*sets.findings(), *lint(own, resumes=resumes)]
    return [
        replace(
            finding,
            message=f"warm_start: {finding.message}",
            where=_in_warm_start(finding.where, facts.recipe.warm_start),
        )
        for finding in found
        if (finding.id, finding.message) not in known
    ]


def _in_warm_start(where: str, stage: WarmStartSection | None) -> str:
    """`train.learning_rate` of the stage's recipe is `warm_start.learning_rate`, and `data.train`
    is `warm_start.train` where it names rows of its own."""
    section, _, key = where.partition(".")
    own = () if stage is None else [name for name in ROWS if getattr(stage, name) is not None]
    is_here = (section == "train" and key in StageSection.model_fields) or (
        section == "data" and key in own
    )
    return f"{FOLDER}.{key}" if is_here else where


def report_findings(found: Told) -> None:
    """Say what was found, and stop where training would be wrong."""
    found.say(log)
    errors = [finding for finding in found.findings if finding.severity == "error"]
    if errors:
        listed = "; ".join(f"{one.message} ({one.where}) [{one.id}]" for one in errors)
        raise DataError(f"training would be wrong: {listed}. `lorakit check` shows all of it.")
