"""The files of a run folder as the report reads them: what is there, checked; what is not, by name.

More keys may stand in a file than are read here; the shapes are a contract (docs/architecture.md).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lorakit.errors import InputError
from lorakit.recipe import Recipe, load_recipe
from lorakit.report.data_files import DataFacts, FoundFact
from lorakit.report.evaluation_files import Answer, SetEvaluation
from lorakit.report.order import Told
from lorakit.report.read_files import read_checked, read_json, read_json_lines
from lorakit.report.training_files import ChoiceFacts, LoggedStep, PlanFacts, RolledOut
from lorakit.run_folder import RunFolder
from lorakit.train.metrics import read_metrics


@dataclass(frozen=True)
class RunFiles:
    """Everything a run folder says; None or empty where a file is not there.

    Sets and metrics are in the order they are told in: files keep them in that of the alphabet.

    Attributes:
        versions: the header lines of recipe.yaml, such as `torch 2.13.0`.
        missing: names of the files that are not there, in the order of `FILES`.
    """

    folder: RunFolder
    recipe: Recipe | None
    versions: tuple[str, ...]
    plan: PlanFacts | None
    choices: ChoiceFacts | None
    metrics: list[LoggedStep]
    data: DataFacts | None
    evaluation: dict[str, SetEvaluation]
    answers: list[Answer]
    completions: list[RolledOut]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.path.resolve().name

    @property
    def seen(self) -> list[FoundFact]:
        """What was seen while it trained, in that order."""
        return [found for line in self.metrics for found in line.findings]

    @property
    def silenced(self) -> dict[str, int]:
        """{id: how often}, of what was seen while it trained and kept quiet."""
        counts: Counter[str] = Counter()
        for line in self.metrics:
            counts.update(line.silenced)
        return dict(counts)

    def has(self, name: str) -> bool:
        """Whether the folder has the file of that name."""
        return name not in self.missing


def read_run(path: Path) -> RunFiles:
    """Read a run folder, finished or not.

    Raises:
        InputError: no such folder, or none of a run's files is in it.
        RunError: a file is damaged.
    """
    folder = RunFolder(path)
    files = {
        file.name: file
        for file in (
            folder.recipe,
            folder.plan,
            folder.data,
            folder.choices,
            folder.metrics,
            folder.evaluation,
            folder.answers,
        )
    }
    missing = tuple(name for name, file in files.items() if not file.is_file())
    if len(missing) == len(files):
        raise InputError(
            f"{str(path)!r} is no run folder: it has none of {', '.join(files)}. Name the folder "
            "that `lorakit train` wrote."
        )
    has_recipe = folder.recipe.name not in missing
    return RunFiles(
        folder=folder,
        recipe=load_recipe(folder.recipe) if has_recipe else None,
        versions=_header(folder.recipe) if has_recipe else (),
        plan=read_json(folder.plan, PlanFacts, None),
        choices=read_json(folder.choices, ChoiceFacts, None),
        metrics=read_checked(folder.metrics, read_metrics, list[LoggedStep], []),
        data=read_json(folder.data, DataFacts, None),
        evaluation=read_json(folder.evaluation, Annotated[dict[str, SetEvaluation], Told], {}),
        answers=read_json_lines(folder.answers, list[Answer], []),
        completions=read_json_lines(folder.completions, list[RolledOut], []),
        missing=missing,
    )


def _header(path: Path) -> tuple[str, ...]:
    """The comment lines that a resolved recipe opens with: versions, machine, commit, seed."""
    found = re.match(r"(?:#.*\n)*", path.read_text("utf-8"))
    assert found is not None  # it matches the empty text too
    return tuple(line.removeprefix("#").strip() for line in found[0].splitlines())
