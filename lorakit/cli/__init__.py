"""The command line: one file per verb, which imports what is heavy only when it runs.

Exit codes: 0 done, 1 the run or a check failed, 2 the input is wrong, 130 interrupted. Results go
to stdout, everything else to stderr.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer
from typer.main import get_command

from lorakit.cli import (
    adapter,
    advise,
    chat,
    check,
    compare,
    demo,
    evaluate,
    merge,
    new,
    plan,
    quantize,
    report,
    train,
)
from lorakit.cli.output import visible
from lorakit.errors import InterruptionError, LorakitError

# What an operating system refuses for reasons outside lorakit; anything else is our bug.
REFUSALS = {
    errno.EACCES: "Check the permissions.",
    errno.EPERM: "Check the permissions.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.ENOSPC: "Free some space, or choose another disk; what was complete before is kept.",
    errno.EDQUOT: "Free some quota, or choose another disk; what was complete before is kept.",
    errno.EFBIG: "Choose a disk that takes larger files.",
    errno.EIO: "The disk reports a fault.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
    errno.EBUSY: "Something holds that place, such as a mount. Choose another folder.",
    errno.EXDEV: "A part of that path lies on another disk. Choose a folder that is no mount.",
    errno.EEXIST: "Something was put there meanwhile. Choose another folder, or remove it.",
    errno.ENOTEMPTY: "Something was put there meanwhile. Choose another folder, or remove it.",
    errno.ENOTDIR: "A part of that path is a file, not a folder.",
}

INTERRUPTED = 130

# Verbs that leave nothing behind but what they have written by then.
ENDS_AT_ONCE = frozenset({"plan"})

app = typer.Typer(
    name="lorakit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Fine-tune language models with LoRA and QLoRA: a recipe in, a proven adapter out.",
)
VERBS = (
    demo,
    advise,
    new,
    check,
    plan,
    train,
    evaluate,
    compare,
    report,
    chat,
    merge,
    quantize,
)
for verb in VERBS:
    app.command(verb.__name__.rpartition(".")[2])(verb.command)
app.add_typer(adapter.app, name="adapter")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lorakit {version('lorakit')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes, only errors.")] = False,
) -> None:
    logging.getLogger("lorakit").setLevel(logging.WARNING if quiet else logging.INFO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands after `lorakit`; None: those of the process.

    Returns:
        The exit code. A traceback is shown only for a bug in lorakit.
    """
    notes = _Notes()
    logger = logging.getLogger("lorakit")
    logger.addHandler(notes)
    try:
        get_command(app)(args=arguments, prog_name="lorakit")
    except SystemExit as done:  # how typer ends, also after --help, wrong options and Ctrl-C
        code = int(done.code or 0)
        if code == INTERRUPTED:
            print("interrupted", file=sys.stderr)
        return code
    except LorakitError as error:
        return _refuse(" ".join([str(error), *_notes_of(error)]), error)
    except MemoryError:
        return _refuse("out of memory. `lorakit plan` says what a recipe needs.")
    except OSError as error:
        if error.errno not in REFUSALS:
            return _report_bug()
        place = f"{error.filename!s}: " if error.filename else ""
        return _refuse(f"{place}{error.strerror}. {REFUSALS[error.errno]}")
    # A bug must be seen whatever its type, with its traceback and an exit code that says failed.
    except Exception:  # noqa: BLE001
        return _report_bug()
    finally:
        logger.removeHandler(notes)
    return 0


def run() -> NoReturn:
    """The process of the command `lorakit`: `main`, and then its end.

    To take apart what torch and transformers have made takes Python up to half a second, a tenth of
    a short command. A verb that has nothing else to do at its end does not wait for it.
    """
    code = main()
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if verb in ENDS_AT_ONCE and threading.active_count() == 1:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # whoever read it is gone, which Python says in its own way
            sys.exit(code)
        os._exit(code)
    sys.exit(code)


class _Notes(logging.Handler):
    """Notes on whatever stderr is at the time: while a progress bar runs, lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(visible(self.format(record)), file=sys.stderr)


def _notes_of(error: LorakitError) -> list[str]:
    """What was added on its way here; Python makes the list with the first note."""
    found: list[str] = vars(error).get("__notes__", [])
    return found


def _refuse(message: str, error: LorakitError | None = None) -> int:
    # Who stopped it knows that it was no error.
    mark = "" if isinstance(error, InterruptionError) else "error: "
    print(visible(f"{mark}{message}"), file=sys.stderr)
    return 1 if error is None else error.exit_code


def _report_bug() -> int:
    traceback.print_exc()
    print(
        "error: this is a bug in lorakit, not in your input. "
        "Please report it with the lines above and the command.",
        file=sys.stderr,
    )
    return 1
