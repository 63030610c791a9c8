"""What verbs share: their options, one JSON object on stdout, and a console for people."""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lorakit.data.garbage import collection_paused

if TYPE_CHECKING:
    from lorakit.evaluate.result import SetResult

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
HtmlPage = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page about it too, read offline."),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="a.b=c", help="Override one value of the recipe; repeatable."),
]

# A module of ours that imports all of them that any model needs.
LIBRARIES = "lorakit.base.attention"
# What of it comes without torch's compiler, which brings triton where that is installed. Of scipy,
# which datasketch needs, transformers imports this part.
WITHOUT_TRITON = (
    "torch.fx.experimental.symbolic_shapes",
    "scipy.optimize",
    "transformers.models.auto.modeling_auto",
    "transformers.tokenization_utils_base",
)

# Text of a model, a data set or a file must not steer the terminal: what is no line break or tab is
# shown as a symbol.
SYMBOLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
SYMBOLS |= dict.fromkeys(range(0x80, 0xA0), ord("\ufffd"))


def visible(text: str) -> str:
    """The text with control characters shown as symbols."""
    return text.translate(SYMBOLS)


@contextmanager
def stdout_for_results(*, computes: bool = True) -> Iterator[None]:
    """Inside, whatever libraries print goes to stderr: stdout belongs to the result.

    Args:
        computes: whether models are needed: their libraries are here then, see `import_libraries`.
    """
    with redirect_stdout(sys.stderr):
        if computes:
            import_libraries()
        yield


def import_libraries() -> None:
    """Import torch and transformers before anything else does, which takes most of a short command.

    The search for reference cycles waits meanwhile, and never looks at most of what came with them
    again: it would go through half a million objects, none of which goes before the process does,
    many times while they come and thrice when the process ends.
    """
    if LIBRARIES in sys.modules:
        return
    with collection_paused():
        for name in WITHOUT_TRITON:
            # A version of a library that has it no more is only slower: what is needed is told by
            # LIBRARIES. A test sees that the installed versions have all of them.
            if _is_there(name):
                importlib.import_module(name)
        # What is left to the end of the process is never torn down; triton's types complain then.
        if "triton" not in sys.modules:
            gc.freeze()
        importlib.import_module(LIBRARIES)


def _is_there(name: str) -> bool:
    """Whether there is a module of that name; a package that it lies in is imported."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError as error:
        if name.startswith(f"{error.name}."):  # the package is not there
            return False
        raise


def print_json(values: dict[str, Any]) -> None:
    """The one JSON object of `--json`. NaN and infinity are no JSON: they are a bug before this."""
    typer.echo(json.dumps(values, indent=2, allow_nan=False))


def check_html(path: Path | None) -> None:
    """Refuse a place for a page before the work that it is about.

    Raises:
        InputError: another file is there, or no folder.
    """
    if path is not None:
        from lorakit.report.render import check_page_place

        check_page_place(path, option="--html")


def console() -> Console:
    """For results in words on stdout: coloured on a terminal, plain and unbroken elsewhere.

    No markup: brackets in paths and rows are the user's own.
    """
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False, emoji=False)
    return Console(highlight=False, markup=False, emoji=False, no_color=True, soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """`1 example`, `2,048 tokens`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def show_lines(lines: Mapping[str, str]) -> None:
    """`what  value` in columns; never broken, so that a path or a command can be copied."""
    width, out = max(map(len, lines)), console()
    for what, value in lines.items():
        out.print(f"{what:<{width}}  {value}", soft_wrap=True)


def show_sets(results: Mapping[str, SetResult]) -> None:
    """What evaluation found, in words."""
    from lorakit.evaluate.summary import summary

    out = console()
    for line in summary(results):
        out.print(visible(line))


def process_began() -> float:
    """When this process began, on the monotonic clock: imports are a part of every run."""
    import psutil

    return time.monotonic() - (time.time() - psutil.Process().create_time())
