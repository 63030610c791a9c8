"""Sets too small for a verdict are warned of before training, with what would help."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lorakit.data.named_sets import title_of
from lorakit.data.prepare import Prepared
from lorakit.evaluate.enough import too_few_findings
from lorakit.evaluate.judge import Scores, judge
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.train.losses import ExampleLosses
from tests.evaluate.test_before_after import prepared, rows

FEW, ENOUGH = MIN_EXAMPLES - 1, MIN_EXAMPLES


def found(sets: dict[str, Prepared], measured: list[str], **measures: Any) -> list[str]:
    stop_ids = sets[measured[0]].stop_ids
    findings = too_few_findings(sets, measured, Measures(**measures), stop_ids)
    assert {(one.id, one.severity) for one in findings} <= {("too-few-to-tell", "warning")}
    return [one.message for one in findings]


def test_only_sets_that_are_measured_and_too_small_are_told() -> None:
    few, enough = prepared(rows(FEW)[0]), prepared(rows(ENOUGH)[0])
    others = prepared(rows(FEW)[0])
    sets = {"train": few, "validation": others, "in_domain": enough, "retention": few}
    (told,) = found(sets, ["in_domain", "retention"])
    assert told.startswith(f"retention: {FEW} rows are there to measure, but a verdict needs")
    assert told.endswith("name more rows as evaluate.retention")
    assert title_of(sets, "in_domain") == "in_domain"


def test_validation_rows_that_serve_as_in_domain_can_be_more_or_others() -> None:
    few = prepared(rows(FEW)[0])
    sets = {"train": few, "validation": few, "in_domain": few}
    (told,) = found(sets, ["in_domain"])
    assert told.startswith(f"in_domain (the validation rows): {FEW} rows")
    assert "data.validation a larger fraction" in told and "as evaluate.in_domain" in told
    assert title_of(sets, "validation") == "validation"


@pytest.mark.parametrize(
    ("measures", "what"),
    [
        ({"max_examples": FEW}, "raise evaluate.max_examples"),
        ({"metrics": ("token_f1",), "max_generated": FEW}, None),  # the verdict is the loss's
        (
            {"metrics": ("token_f1",), "primary": "token_f1", "max_generated": FEW},
            "raise evaluate.max_generated",
        ),
    ],
)
def test_limits_count_as_the_verdict_does(measures: dict[str, Any], what: str | None) -> None:
    told = found({"in_domain": prepared(rows(ENOUGH)[0])}, ["in_domain"], **measures)
    assert len(told) == (what is not None)
    if what is not None:
        assert f"{ENOUGH} rows are there to measure, {FEW} of which would be" in told[0]
        assert told[0].endswith(what)


@pytest.mark.parametrize(
    ("count", "margin", "primary", "says"),
    [
        (72, 0.05, "exact_match", "takes 73 if none is lost"),
        (73, 0.05, "exact_match", None),
        (72, 0.05, "loss", None),
        (72, 0.05, "token_f1", None),
        (72, 0.0, "exact_match", "no number of them shows"),
    ],
)
def test_a_margin_that_retention_cannot_be_shown_to_keep_is_told_before_training(
    count: int, margin: float, primary: str, says: str | None
) -> None:
    sets = {name: prepared(rows(count)[0]) for name in ("in_domain", "retention")}
    metrics = ("loss", "exact_match", "token_f1")
    told = found(sets, list(sets), metrics=metrics, primary=primary, margin=margin)
    assert len(told) == (says is not None)
    if says is not None:
        assert told[0].startswith(f"retention: {count} rows are there") and says in told[0]
    # What evaluation says of so many that are all alike.
    same = np.ones(count)
    losses = ExampleLosses(same, same)
    scores = {primary: Scores(same, same)} if primary == "exact_match" else {}
    judged = judge(
        losses, losses, metrics=["loss"], primary=primary if scores else "loss", margin=margin,
        scores=scores,
    )  # fmt: skip
    assert (judged.verdict == "worse") == (says is not None)
