"""The page of one run: its files in, `RUN/report.html` out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from lorakit.data.row_use import row_use
from lorakit.files import write_atomically
from lorakit.lint.kinds import kinds
from lorakit.report.advice import advice
from lorakit.report.curves import MAX_POINTS, curves, draw_curve, is_policy
from lorakit.report.data_view import examples_by_use, histograms_of
from lorakit.report.files import RunFiles, read_run
from lorakit.report.forest import DERIVED, draw_forest, forests
from lorakit.report.numbers import facts_of
from lorakit.report.policy import policy_curves, shown_generations
from lorakit.report.proofs import (
    calibration_said,
    memorisation_said,
    overfitting_said,
    variants_said,
)
from lorakit.report.recipes import settings_of
from lorakit.report.reliability import draw_reliability
from lorakit.report.render import render, write_page
from lorakit.report.samples import chosen_samples, forgotten_samples
from lorakit.report.verdicts import headline, set_verdicts
from lorakit.report.words import set_name

SECTIONS = (
    ("verdict", "Verdict"),
    ("numbers", "Numbers"),
    ("change", "Before and after"),
    ("answers", "Answers"),
    ("forgotten", "Forgotten"),
    ("variants", "In other words"),
    ("overfitting", "Over-fitting"),
    ("memorisation", "Memorisation"),
    ("calibration", "Calibration"),
    ("training", "Training"),
    ("data", "Data"),
    ("recipe", "Recipe"),
    ("next", "Next"),
)


def write_report(path: Path, output: Path | None = None) -> Path:
    """Make the page of a run, finished or not.

    Args:
        path: the run folder.
        output: where the page goes, in place of another page of lorakit's if need be; None:
            `RUN/report.html`.

    Raises:
        InputError: no run folder, or another file would be overwritten.
        RunError: a file of the run is damaged.
    """
    run = read_run(path)
    if output is None:  # a name of the run folder, which is lorakit's
        write_atomically(run.folder.report, run_page(run).encode())
        return run.folder.report
    write_page(output, run_page(run))
    return output


def run_page(run: RunFiles) -> str:
    """The HTML of one run."""
    plotted = forests(run)
    proofs = _proofs(run)
    settings = [] if run.recipe is None else settings_of(run.recipe)
    policy = is_policy(run.metrics) or (  # one that stopped before its first step has no metrics
        run.recipe is not None and run.recipe.train.method == "grpo"
    )
    use = row_use(is_policy=policy)
    trained = curves(run.metrics, run.plan) if run.metrics else []
    if policy:
        trained = policy_curves(run.metrics) + [one for one in trained if one.name != "loss"]
    return render(
        "run.html.jinja",
        title=f"{run.name}: lorakit run report",
        # Of what was not measured there is no section: runs of before have none of them.
        sections=[one for one in SECTIONS if proofs.get(one[0], True)],
        **proofs,
        run=run,
        headline=headline(run),
        verdicts=set_verdicts(run),
        numbers=facts_of(run),
        evaluation=run.evaluation,
        sampled=any(
            change.base_interval is not None
            for one in run.evaluation.values()
            for change in one.metrics.values()
        ),
        forests=[(one, draw_forest(one)) for one in plotted],
        derived=any(DERIVED in one.metrics for one in run.evaluation.values())
        and all(one.title.lower() != DERIVED for one in plotted),
        samples=chosen_samples(run),
        forgotten=forgotten_samples(run),
        curves=[(one, draw_curve(one)) for one in trained],
        explained=kinds(),
        is_policy=policy,
        use=use,
        rolled_out=shown_generations(run),
        thinned=round(len(run.metrics) / MAX_POINTS) if len(run.metrics) > MAX_POINTS else 0,
        histograms=[] if run.data is None else histograms_of(run.data.sets),
        shown=[] if run.data is None else examples_by_use(run.data.examples, use),
        settings=settings,
        advice=advice(run),
        commands=_commands(run.folder.path),
    )


def _proofs(run: RunFiles) -> dict[str, Any]:
    """What the sections about wordings, over-fitting, memorisation and calibration show."""
    like = run.evaluation.get("in_domain")
    seen = None if like is None else like.overfitting
    return {
        "variants": variants_said(run.evaluation),
        "overfitting": [] if seen is None else overfitting_said(seen),
        "memorisation": memorisation_said(run.evaluation),
        "calibration": calibration_said(run.evaluation),
        "diagrams": [
            (set_name(name), draw_reliability(str(number), one.calibration))
            for number, (name, one) in enumerate(run.evaluation.items())
            if one.calibration is not None and one.variant is None
        ],
        "only_losses": any(
            change.only_losses for one in run.evaluation.values() for change in one.metrics.values()
        ),
        "distances": any(
            change.distance for one in run.evaluation.values() for change in one.metrics.values()
        ),
    }


def _commands(path: Path) -> list[tuple[str, str]]:
    run, merged = shlex.quote(str(path)), shlex.quote(str(path / "merged"))
    return [
        ("Talk to it, base and tuned side by side", f"lorakit chat {run} --base"),
        (
            "Merge it into a plain transformers folder, verified",
            f"lorakit merge {run} --output {merged}",
        ),
        ("Measure it again", f"lorakit evaluate {run}"),
    ]
