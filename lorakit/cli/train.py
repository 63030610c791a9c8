"""`lorakit train`: the whole way from a recipe to an adapter that is proven or not."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorakit.cli.output import (
    AsJson,
    Overrides,
    RecipePath,
    console,
    print_json,
    process_began,
    show_lines,
    show_sets,
    stdout_for_results,
)
from lorakit.recipe import load_recipe
from lorakit.run_folder import RunFolder

if TYPE_CHECKING:
    from lorakit.finetune import Outcome


def command(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nothing changes it)
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run folder, instead of output.dir.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest whole checkpoint of the run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train an adapter as a recipe says, measured before and after.

    Ctrl-C and SIGTERM save a checkpoint and exit; --resume goes on bit for bit.

    \b
    Example:
      lorakit train recipe.yaml
      lorakit train recipe.yaml --set adapter.r=32 --output runs/r32
      lorakit train recipe.yaml --output runs/r32 --set adapter.r=32 --resume
    """
    settings = load_recipe(recipe, overrides)
    if output is not None:
        settings.output.dir = str(output)  # as it is: a shell has no {name}
    with stdout_for_results():
        from lorakit.finetune import finetune

        outcome = finetune(settings, resume=resume, began=process_began())
    if as_json:
        print_json(outcome.to_json())
    else:
        show_training(outcome)
        show_sets(outcome.evaluation)
        show_next(outcome.run)


def show_training(outcome: Outcome) -> None:
    """How the training went, in a sentence."""
    before, training = outcome.warm_start, outcome.training
    if before is not None:
        console().print(
            f"warm start: {before.stopped} after {before.steps} steps and {before.seconds:.0f} s, "
            f"loss {before.loss:.4f}; its run is in {RunFolder(outcome.run).warm_start.path}"
        )
    told = f"loss {training.loss:.4f}"
    if training.reward is not None:  # a policy's loss says nothing: its advantages add up to 0
        told = f"reward {training.reward:.3f}"
    console().print(
        f"{training.stopped} after {training.steps} steps and {training.seconds:.0f} s, {told}; "
        f"the run is in {outcome.run}"
    )
    for one in training.findings:
        console().print(f"seen while training: {one['id']} ({one['where']}); the report says more")
    console().print(outcome.memory.describe())


def show_next(path: Path) -> None:
    """What there is to look at, and the commands that use it."""
    run = RunFolder(path)
    named, merged = shlex.quote(str(path)), shlex.quote(str(path / "merged"))
    lines = {
        "report": str(run.report),
        "adapter": str(run.adapter),
        "talk to it": f"lorakit chat {named}",
        "merge it": f"lorakit merge {named} --output {merged}",
    }
    if run.warm_start.path.is_dir():
        # Before is the base: what rewards added to the warm start is another comparison.
        stage = shlex.quote(str(run.warm_start.path))
        lines["what the warm start did"] = f"lorakit evaluate {stage}"
        lines["what rewards added"] = f"lorakit report {stage} {named}"
    show_lines(lines)
