"""Runs of `lorakit train`, and the table of what they were proven to be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def train(recipe: str, run: Path, options: Iterable[str]) -> dict[str, Any]:
    """evaluation.json of one run through the command line.

    Args:
        recipe: path below the repository's root, where the recipes' relative paths resolve.
        run: the run folder to make.
        options: `a.b=c` each.
    """
    sets = [word for option in options for word in ("--set", option)]
    command = [sys.executable, "-m", "lorakit", "train", recipe, "--output", str(run), *sets]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads((run / "evaluation.json").read_text("utf-8"))


def metrics_table(first_column: str, evaluations: Mapping[Any, dict[str, Any]]) -> str:
    """The Markdown table: every metric of every run; the verdict stands at the primary one."""
    lines = [
        f"| {first_column} | set | metric | before | after | difference, 95 % interval | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, evaluation in evaluations.items():
        for name, result in evaluation.items():
            for metric, change in result["metrics"].items():
                low, high = change["interval"]
                verdict = result["verdict"] if metric == result["primary"] else ""
                lines.append(
                    f"| {title} | {name} | {metric} | {change['base']:.3f} "
                    f"| {change['tuned']:.3f} | {change['difference']:+.3f} ({low:+.3f} to "
                    f"{high:+.3f}) | {verdict} |"
                )
    return "\n".join(lines)
