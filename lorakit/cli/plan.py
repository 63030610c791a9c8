"""`lorakit plan`: what a recipe will take, before anything is downloaded in full or trained."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorakit.cli.output import (
    AsJson,
    HtmlPage,
    Overrides,
    RecipePath,
    check_html,
    console,
    print_json,
    process_began,
    stdout_for_results,
)
from lorakit.cli.plan_tables import device_lines, memory_tables, stage_lines
from lorakit.cli.plan_words import setup_lines, show_duration, show_fixes, step_lines
from lorakit.errors import InputError, RunError
from lorakit.recipe import load_recipe, rewrite_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from lorakit.data.named_sets import NamedSets
    from lorakit.plan.fixes import Fixes
    from lorakit.plan.result import Plan
    from lorakit.recipe import Recipe

# Less than the libraries that compute take, whatever the model.
SMALLEST_BUDGET = 16 << 20


def command(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006  (typer reads it, nothing changes it)
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Plan for this GPU, not this machine.")
    ] = None,
    gpus: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="GPUs that share each step: planned, `train` uses one."
        ),
    ] = 1,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="What the run may take of --gpu, or of this machine: 8GB, 7.5GiB."
        ),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Rewrite the recipe so that it fits --gpu or --budget.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Where --fit writes, instead of RECIPE (kept as .bak)."),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your own prices, see docs/plan.md.")
    ] = None,
    efficiency: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Of --gpu's data sheet that training reaches, such as 0.4."
        ),
    ] = None,
    no_calibrate: Annotated[
        bool, typer.Option("--no-calibrate", help="Do not time this machine for some seconds.")
    ] = False,
    html: HtmlPage = None,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe will take: memory, steps, tokens, time, money.

    The model's config.json is enough; no weights are read. Exit code 1: it does not fit --gpu or
    --budget, and --fit did not write a recipe that does.

    \b
    Example:
      lorakit plan recipe.yaml
      lorakit plan recipe.yaml --gpu rtx4090
      lorakit plan recipe.yaml --gpu h100 --gpus 8
      lorakit plan recipe.yaml --set base.quantization=nf4 --json
      lorakit plan recipe.yaml --gpu rtx3060 --fit --output fitting.yaml
      lorakit plan recipe.yaml --html plan.html
    """
    _check_options(gpu, budget, efficiency, fit=fit, output=output, overrides=overrides)
    limit = None if budget is None else _bytes_of(budget)
    settings = load_recipe(recipe, overrides)
    check_html(html)
    with stdout_for_results():
        from lorakit.plan.blueprint import Workbench
        from lorakit.plan.duration import Timing
        from lorakit.plan.fixes import fixes_for
        from lorakit.plan.machines import EFFICIENCY
        from lorakit.plan.methods import compare_methods
        from lorakit.plan.plan import plan
        from lorakit.plan.prices import load_prices
        from lorakit.plan.trial import same_machine

        timing = Timing(
            times_machine=not no_calibrate,
            spent=lambda: time.monotonic() - process_began(),
            checks=_time_rules,
            efficiency=efficiency or EFFICIENCY,
            prices=load_prices(prices),
        )
        bench = Workbench()
        machine: dict[str, Any] = {"gpu": gpu, "num_gpus": gpus, "budget": limit, "bench": bench}
        result = plan(settings, timing=timing, is_idle=True, **machine)
        methods = compare_methods(settings, result, same_machine(is_idle=True, **machine))
        result = replace(result, methods=methods)
        fixes = fixes_for(settings, result, timing=timing, **machine)
        told = result.to_json() | ({} if fixes is None else {"fit": fixes.to_json()})
        if html is not None:
            from lorakit.report.plan_page import write_plan_page

            write_plan_page(told, settings, source=recipe, output=html)
    if as_json:
        print_json(told)
    else:
        show_plan(result)
        if fixes is not None:
            show_fixes(fixes, result)
    if fit:
        assert fixes is not None
        _rewrite(recipe, output, fixes)
    elif fixes is not None and not fixes.fits:
        raise typer.Exit(1)


def _time_rules(
    recipe: Recipe, sets: NamedSets, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> float:
    """`time_rules`, whose imports take a second that a plan without rows need not wait for."""
    from lorakit.lint.lint_time import time_rules

    return time_rules(recipe, sets, tokenizer, config)


def _check_options(
    gpu: str | None,
    budget: str | None,
    efficiency: float | None,
    *,
    fit: bool,
    output: Path | None,
    overrides: list[str],
) -> None:
    if fit and gpu is None and budget is None:
        raise InputError("--fit was given nothing to fit. Name a --gpu or a --budget.")
    if fit and overrides:
        raise InputError(
            "--fit rewrites the recipe as its file has it, but --set changes it. Write those "
            "values into the file, or leave --set out."
        )
    if output is not None and not fit:
        raise InputError("--output is where --fit writes. Add --fit, or leave --output out.")
    if gpu is None and efficiency is not None:
        raise InputError("--efficiency is of a GPU's data sheet. Name the GPU with --gpu.")
    if efficiency is not None and not 0 < efficiency <= 1:
        raise InputError(
            f"--efficiency is {efficiency:g}; possible: more than 0, at most 1. Change it."
        )


def _bytes_of(budget: str) -> int:
    """Bytes of a size with a unit: `8` may be meant as anything."""
    from lorakit.base.placement import parse_bytes

    has_unit = not budget.strip().replace(".", "", 1).isdecimal()
    limit = parse_bytes(budget, option="--budget") if has_unit else None
    if limit is None or limit < SMALLEST_BUDGET:
        given = f"--budget {budget!r} " + ("has no unit" if limit is None else "holds no run")
        raise InputError(f"{given}; possible: a size such as 8GB, 7.5GiB or 500MB. Change it.")
    return limit


def _rewrite(recipe: Path, output: Path | None, fixes: Fixes) -> None:
    """Write the first of the fixes into the recipe, and say what was changed."""
    if fixes.fits:
        told = "it fits: nothing was changed"
        if output is not None:  # whoever asked for that file goes on with it
            told += f"; wrote {rewrite_recipe(recipe, {}, output)[0]}"
        typer.echo(told, err=True)
        return
    if not fixes.fixes:
        raise RunError("no change that is known makes it fit; nothing was written. See above.")
    chosen = fixes.fixes[0]
    written, kept = rewrite_recipe(recipe, chosen.changes, output)
    typer.echo(f"wrote {written}" + (f", the old one is {kept}" if kept else ""), err=True)
    for key, value in chosen.changes.items():
        typer.echo(f"  {key}: {value}", err=True)


def show_plan(result: Plan) -> None:
    """Parameters, memory by part, steps and tokens, in words."""
    out = console()
    parameters = result.to_json()["parameters"]
    share = parameters["trainable"] / parameters["total"]
    out.print(
        f"parameters  {parameters['total']:,} in all, {parameters['trainable']:,} trained "
        f"({share:.3%}), {result.num_adapted} layers adapted, {result.num_not_adapted} not"
    )
    for line in setup_lines(result):
        out.print(line)
    for table in memory_tables(result):
        out.print(table)
    for line in step_lines(result):
        out.print(line)
    for line in stage_lines(result):
        out.print(line)
    show_duration(result.duration)
    for line in device_lines(result):
        out.print(line)
    for note in result.notes:
        out.print(f"note: {note}")
