"""`lorakit new`: write a commented recipe, or the schema that lets an editor complete one."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from lorakit.errors import InputError
from lorakit.files import write_atomically
from lorakit.recipe import recipe_schema

TEMPLATES = Path(__file__).parents[1] / "recipe" / "templates"
DEFAULT_TEMPLATE = "qlora_dora"


def template_names() -> list[str]:
    """The recipes that come with lorakit."""
    return sorted(path.stem for path in TEMPLATES.glob("*.yaml"))


def command(
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="The file to write; it must not exist.")
    ] = None,
    template: Annotated[
        str, typer.Option(metavar="NAME", help=f"One of: {', '.join(template_names())}.")
    ] = DEFAULT_TEMPLATE,
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON schema of recipes instead, for editors.")
    ] = False,
) -> None:
    """Write a commented recipe.

    \b
    Example:
      lorakit new recipe.yaml
      lorakit new --schema > recipe.schema.json
    """
    text = json.dumps(recipe_schema(), indent=2) + "\n" if schema else _template(template, path)
    if path is None:
        if not schema:
            raise InputError(
                "no PATH was given. Say where the recipe goes, such as `lorakit new recipe.yaml`."
            )
        typer.echo(text, nl=False)
        return
    if path.exists():
        raise InputError(
            f"{str(path)!r} exists already and is not overwritten. Choose another PATH."
        )
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} does not exist. Make it first.")
    write_atomically(path, text.encode())
    typer.echo(f"wrote {path}", err=True)


def _template(name: str, path: Path | None) -> str:
    """Its text, whose commands name the file that is written in place of the template's."""
    names = template_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"template {name!r} is not known; possible: {', '.join(names)}.{hint}")
    text = (TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8")
    if path is None:
        return text
    written = shlex.quote(str(path))
    own = dict.fromkeys((f"recipes/{name}.yaml", f"{name}.yaml", "recipe.yaml"), written)
    own[f"runs/{name}"] = f"runs/{path.stem}"
    pattern = "|".join(map(re.escape, own))
    return "".join(
        re.sub(pattern, lambda found: own[found[0]], line) if line.startswith("#") else line
        for line in text.splitlines(keepends=True)
    )
