"""`lorakit report`: a run as one page, or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.output import AsJson, console, print_json, stdout_for_results


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, finished or not.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the page goes; else RUN/report.html, or ./report.html for several runs.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the page of a run again, or one that compares several.

    The page is made from the files in the run folders alone, and read offline.

    \b
    Example:
      lorakit report runs/recipe
      lorakit report runs/r16 runs/r32 --output ranks.html
      lorakit report runs/recipe --json
    """
    with stdout_for_results(computes=False):
        from lorakit.report.comparison import write_comparison
        from lorakit.report.page import write_report

        if len(runs) == 1:
            written = write_report(runs[0], output)
        else:
            written = write_comparison(runs, output)
    if as_json:
        print_json({"report": str(written), "runs": [str(run) for run in runs]})
    else:
        console().print(f"wrote {written}")
