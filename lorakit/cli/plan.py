"""`lorakit plan`: what a recipe will take, before anything is downloaded in full or trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lorakit.cli.output import (
    AsJson,
    Overrides,
    RecipePath,
    console,
    print_json,
    stdout_for_results,
)
from lorakit.cli.plan_tables import device_lines, memory_tables
from lorakit.recipe import load_recipe

if TYPE_CHECKING:
    from lorakit.plan.plan import Plan


def command(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nothing changes it)
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Plan for this GPU, which need not be here.")
    ] = None,
    gpus: Annotated[
        int, typer.Option(min=1, metavar="N", help="GPUs that share the examples of each step.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe will take: parameters, memory, steps, tokens.

    The model's config.json is enough; no weights are read.

    \b
    Example:
      lorakit plan recipe.yaml
      lorakit plan recipe.yaml --gpu rtx4090
      lorakit plan recipe.yaml --gpu h100 --gpus 8
      lorakit plan recipe.yaml --set base.quantization=nf4 --json
    """
    settings = load_recipe(recipe, overrides)
    with stdout_for_results():
        from lorakit.plan.plan import plan

        result = plan(settings, gpu=gpu, num_gpus=gpus)
    if as_json:
        print_json(result.to_json())
    else:
        show_plan(result)


def show_plan(result: Plan) -> None:
    """Parameters, memory by part, steps and tokens, in words."""
    out = console()
    parameters = result.to_json()["parameters"]
    share = parameters["trainable"] / parameters["total"]
    out.print(
        f"parameters  {parameters['total']:,} in all, {parameters['trainable']:,} trained "
        f"({share:.3%}), {result.num_adapted} layers adapted, {result.num_not_adapted} not"
    )
    for table in memory_tables(result):
        out.print(table)
    for name, count in (
        ("steps", result.steps),
        ("tokens", result.tokens),
        ("trained tokens", result.trained_tokens),
    ):
        out.print(f"{name:<15} {'not known yet' if count is None else f'{count:,}'}")
    for line in device_lines(result):
        out.print(line)
    for note in result.notes:
        out.print(f"note: {note}")
