"""Sets too small for a verdict are warned of before training, with what would help."""

from __future__ import annotations

from typing import Any

import pytest

from lorakit.data.named_sets import title_of
from lorakit.data.prepare import Prepared
from lorakit.evaluate.enough import too_few_findings
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.statistics import MIN_EXAMPLES
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
