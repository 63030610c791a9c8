"""The recipe of SFT that a warm start is: a stage is checked, planned, trained and measured as any
other run, in a folder of its own inside of the run's."""

from __future__ import annotations

from pathlib import Path

from lorakit.recipe.read import parse_recipe
from lorakit.recipe.sections.recipe import Recipe
from lorakit.recipe.sections.stage import StageSection

FOLDER = "warm_start"
TRAIN_SET = f"{FOLDER}.train"  # how its rows are named among the sets of the recipe
ROWS = ("train", "validation")  # of `data`, where the stage has its own
# The others name a run by its folder, which is called the same in every run.
LOGGERS = ("tensorboard",)


def warm_start_recipe(recipe: Recipe) -> Recipe | None:
    """The warm start's recipe, with the sets that `recipe` is measured on; None: it has none."""
    stage = recipe.warm_start
    if stage is None:
        return None
    values = recipe.model_dump(exclude_unset=True)
    own = stage.model_dump(exclude_unset=True)
    rows = {name: own.pop(name) for name in ROWS if name in own}
    data, evaluate = values["data"], values.setdefault("evaluate", {})
    validation = recipe.data.validation
    if validation is not None and not isinstance(validation, float):
        evaluate.setdefault("in_domain", data.pop("validation"))
    values["data"] = data | {name: value for name, value in rows.items() if value is not None}
    shared = values.get("train", {}).items()
    values["train"] = own | {
        name: value
        for name, value in shared
        if name not in StageSection.model_fields and name != "method"
    }
    values["train"]["report_to"] = [n for n in recipe.train.report_to if n in LOGGERS]
    for name in ("grpo", "warm_start", "output"):
        values.pop(name, None)
    found = parse_recipe(values)
    found.output.dir = str(Path(recipe.output.dir) / FOLDER)
    return found
