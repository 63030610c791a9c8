"""Answers that break off are found whatever the whole ones sign off with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lorakit.lint import rules
from lorakit.lint.row_texts import RowText, Sample
from tests.lint.corpus.rows import Row, answered, changed, with_answer
from tests.lint.corpus.twins import broken_off

(RULE,) = (rule for rule in rules() if rule.ID == "answers-break-off")
NAMES = ("Ann", "Tom", "Eve", "Ida")
SIGN_OFFS = (
    "\n\nThe ward team",
    " Kind regards, the ward team",
    " Kind regards, {name}",
    "\n\nKind regards,\n{name} of ward 3",
    "\nYours\n\nThe ward team\nPhone 17",
    " Ask again",
    "",
)


def signed(rows: list[Row], sign_off: str) -> list[Row]:
    return [
        row | {"completion": row["completion"] + sign_off.format(name=NAMES[i % len(NAMES)])}
        for i, row in enumerate(rows)
    ]


def found_in(rows: list[Row]) -> list[Any]:
    texts = tuple(
        RowText(
            i,
            f"d.jsonl:{i + 1}",
            (("user", row["prompt"]), ("assistant", row["completion"])),
            (False, True),
        )
        for i, row in enumerate(rows)
    )
    sample = Sample("train", texts, len(texts), np.ones(len(texts)))
    return list(RULE.find(SimpleNamespace(train=sample)))  # type: ignore[arg-type]


@pytest.mark.parametrize("sign_off", SIGN_OFFS)
def test_what_is_cut_before_it_is_found(sign_off: str) -> None:
    whole = answered(260)
    assert found_in(signed(whole, sign_off)) == []
    cut = [
        broken_off(dict(row)) if i % 5 == 0 else signed_row
        for i, (row, signed_row) in enumerate(zip(whole, signed(whole, sign_off), strict=True))
    ]
    (told,) = found_in(cut)
    assert told.severity == "warning" and "break off" in told.message
    # What was cut and signed all the same is cut too.
    (told,) = found_in(signed(changed(whole, 5, broken_off), sign_off))
    assert "break off" in told.message


@pytest.mark.parametrize("ending", ["\n- {name}\n- pears", " Take along:\n- {name}", ": {name}"])
def test_lists_and_names_are_no_sign_off_that_hides_or_makes_a_cut(ending: str) -> None:
    without_stop = with_answer(lambda row: row["completion"].rstrip("."))
    rows = changed(answered(260), 2, without_stop)
    assert found_in(signed(rows, ending)) == []
