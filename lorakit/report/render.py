"""Templates to one self-contained page: style and script inside, everything else forbidden."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lorakit.errors import InputError
from lorakit.evaluate.statistics import TOO_FEW
from lorakit.files import write_atomically
from lorakit.report import words
from lorakit.report.proofs import effect_of_change
from lorakit.report.verdicts import effect_of

TEMPLATES = Path(__file__).parent / "templates"
# How a page that lorakit wrote is known again.
GENERATOR = "lorakit"


def render(template: str, *, title: str, sections: Sequence[tuple[str, str]], **values: Any) -> str:
    """The HTML of a page.

    Args:
        template: a file of `templates/`.
        title: of the window.
        sections: (id, name) of what the page is divided into, for its navigation.
        values: what the template shows. Text is escaped, whatever it says.
    """
    css = (TEMPLATES / "page.css").read_text("utf-8")
    script = (TEMPLATES / "theme.js").read_text("utf-8")
    page = _environment().get_template(template)
    made = page.render(
        title=title,
        sections=sections,
        css=Markup(css),
        script=Markup(script),
        policy=_policy(script),
        generator=f"{GENERATOR} {version('lorakit')}",
        set_meanings=words.SET_MEANINGS,
        **values,
    )
    return str(words.printable(made))  # plots too, whose text is made elsewhere


def write_page(path: Path, page: str, *, option: str = "--output") -> None:
    """Write a page, in the place of one that lorakit wrote but of nothing else.

    Args:
        option: what another file is named with.

    Raises:
        InputError: the file is not one of lorakit's pages, or its folder is not there.
    """
    check_page_place(path, option=option)
    write_atomically(path, page.encode())


def check_page_place(path: Path, *, option: str = "--output") -> None:
    """Refuse a place where `write_page` would not write: before the work that a page is about.

    Raises:
        InputError: as `write_page`.
    """
    if path.exists() and not _is_own_page(path):
        raise InputError(
            f"{str(path)!r} exists, was not written by lorakit, and is not overwritten. Name "
            f"another file with {option}."
        )
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} does not exist. Make it first.")


def _is_own_page(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'<meta name="generator" content="{GENERATOR} '.encode() in file.read(2048)


def _policy(script: str) -> str:
    """Nothing may be loaded, and no script may run but the page's own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=words.printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["too_few"] = TOO_FEW
    environment.filters |= {
        "amount": words.amount,
        "bounds": lambda bounds: words.bounds(*bounds),
        "change": words.change,
        "cost": words.cost,
        "count": words.count,
        "effect": effect_of,
        "interval": lambda bounds: words.interval(*bounds),
        "metric": words.metric_name,
        "duration": words.duration,
        "part": words.part_name,
        "set": words.set_name,
        "share": words.share,
        "size": words.size,
        "shift": lambda bounds, higher, examples: effect_of_change(
            bounds, higher_is_better=higher, examples=examples
        ),
    }
    return environment
