"""`lorakit plan`: what a recipe will take, before anything is downloaded in full or trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lorakit.cli.output import (
    AsJson,
    HtmlPage,
    Overrides,
    RecipePath,
    check_html,
    console,
    human_bytes,
    print_json,
    stdout_for_results,
)
from lorakit.recipe import load_recipe

if TYPE_CHECKING:
    from lorakit.plan.plan import Plan


def command(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nothing changes it)
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Hold the known parts against this GPU.")
    ] = None,
    html: HtmlPage = None,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe will take: parameters, memory, steps, tokens.

    The model's config.json is enough; no weights are read.

    \b
    Example:
      lorakit plan recipe.yaml
      lorakit plan recipe.yaml --gpu rtx4090
      lorakit plan recipe.yaml --set base.quantization=nf4 --json
      lorakit plan recipe.yaml --html plan.html
    """
    settings = load_recipe(recipe, overrides)
    check_html(html)
    with stdout_for_results():
        from lorakit.plan.plan import plan

        result = plan(settings, gpu=gpu)
        told = result.to_json()
        if html is not None:
            from lorakit.report.plan_page import write_plan_page

            write_plan_page(told, settings, source=recipe, output=html)
    if as_json:
        print_json(told)
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
    table = Table("memory", "bytes", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for part, count in result.to_json()["memory_bytes"].items():
        known = count is not None
        table.add_row(
            part.replace("_", " "),
            f"{count:,}" if known else "-",
            human_bytes(count) if known else "not known yet",
        )
    out.print(table)
    for name, count in (
        ("steps", result.steps),
        ("tokens", result.tokens),
        ("trained tokens", result.trained_tokens),
    ):
        out.print(f"{name:<15} {'not known yet' if count is None else f'{count:,}'}")
    if result.gpu is not None:
        left = result.gpu["left_for_activations"]
        out.print(
            f"{result.gpu['name']}: {human_bytes(left)} left for activations"
            if left > 0
            else f"{result.gpu['name']}: does not fit, {human_bytes(-left)} too little"
        )
    for note in result.notes:
        out.print(f"note: {note}")
