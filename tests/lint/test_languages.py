"""When languages side by side are a fault, and when they are meant; languages told by hand."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lorakit.lint.languages import Languages, languages_of
from lorakit.lint.row_texts import RowText, Sample
from lorakit.lint.rules import languages_mixed


def languages(counts: dict[str, int], question: str = "What is it?") -> Languages:
    """Rows asked and answered in each language."""
    rows = {
        name: [
            RowText(i, f"{name}:{i}", (("user", question), ("assistant", "So.")), (False, True))
            for i in range(count)
        ]
        for name, count in counts.items()
    }
    by_row = [(row, name, name) for name, some in rows.items() for row in some]
    return Languages(Counter(counts), by_row, rows)


def severities(train: Languages, **held_out: dict[str, int]) -> list[str]:
    rows = tuple(row for row, _, _ in train.by_row)
    facts: Any = SimpleNamespace(
        languages=train,
        languages_held_out={name: languages(counts) for name, counts in held_out.items()},
        train=Sample("train", rows, len(rows), np.ones(len(rows))),
    )
    return [one.severity for one in languages_mixed.find(facts)]


@pytest.mark.parametrize(
    ("train", "held_out", "told"),
    [
        ({"en": 100}, {}, []),
        ({"en": 100, "de": 1}, {}, []),  # a mistake of telling
        ({"en": 94, "de": 6}, {}, ["note"]),  # each asked and answered in itself
        ({"en": 88, "de": 6, "fr": 6}, {}, ["note"]),
        ({"en": 930, "de": 70}, {"in_domain": {"en": 93, "de": 7}}, ["note"]),
        ({"en": 930, "de": 70}, {"in_domain": {"en": 100}}, ["warning"]),
        ({"en": 930, "de": 70}, {"in_domain": {"en": 50}}, ["note"]),  # too few to have any
        ({"en": 1000}, {"in_domain": {"en": 93, "de": 7}}, ["warning"]),
        ({"en": 60, "de": 40}, {}, ["note"]),
        ({"en": 60, "de": 40}, {"in_domain": {"en": 12, "de": 8}}, ["note"]),
        ({"en": 60, "de": 40}, {"in_domain": {"en": 20}}, ["warning"]),
        ({"en": 60, "de": 40}, {"in_domain": {"en": 20}, "out_of_domain": {"de": 9}}, ["note"]),
        ({"en": 60, "de": 40}, {"in_domain": {"en": 8}}, ["note"]),  # too few to have any
        ({"en": 100}, {"in_domain": {"en": 20, "de": 9}}, ["warning"]),
        ({"en": 100}, {"in_domain": {"en": 200, "de": 9}}, []),
        ({"en": 100}, {"out_of_domain": {"de": 20}}, ["warning"]),
        ({"en": 100}, {"in_domain": {"en": 20}, "out_of_domain": {"de": 20}}, []),
        ({"en": 94, "de": 6}, {"in_domain": {"fr": 20}}, ["warning", "warning"]),  # en, fr
        ({}, {"in_domain": {"fr": 20}}, []),
    ],
)
def test_a_fault_is_a_warning_and_a_purpose_a_note(
    train: dict[str, int], held_out: dict[str, dict[str, int]], told: list[str]
) -> None:
    assert severities(languages(train), **held_out) == told


def test_what_is_to_be_translated_need_not_be_measured() -> None:
    held_out = {"in_domain": {"en": 200}}
    asked = languages({"en": 94, "de": 6}, "Translate it into German.")
    assert severities(asked, **held_out) == ["note"]
    assert severities(languages({"en": 94, "de": 6}), **held_out) == ["warning"]


def test_a_few_answers_in_another_language_than_their_question() -> None:
    found = languages({"en": 60, "de": 40})
    found.by_row[:5] = [(row, "de", "en") for row, _, _ in found.by_row[:5]]
    assert severities(found) == ["warning"]
    assert severities(found, in_domain={"en": 60, "de": 40}) == ["warning"]
    # All that is asked in German is answered in English: that is meant.
    found.by_row[:] = [
        (row, "de" if i < 40 else asked, "en") for i, (row, asked, _) in enumerate(found.by_row)
    ]
    assert severities(found) == ["note"]


def split(count: int, prompt: str = "What is it?", system: str = "") -> Languages:
    """Forty German questions answered in German, and as many as `count` in English."""
    found = languages({"de": 40 + count})
    says = (("system", system),) if system else ()
    turns = (*says, ("user", prompt), ("assistant", "So."))
    for i in range(40, 40 + count):
        row = RowText(i, f"de:{i}", turns, (False,) * (len(turns) - 1) + (True,))
        found.by_row[i] = (row, "de", "en")
    return found


@pytest.mark.parametrize("count", [4, 5, 20, 30, 40])
def test_questions_of_one_language_answered_in_two_are_a_fault(count: int) -> None:
    assert severities(split(count)) == ["warning"] * (count >= 5)


@pytest.mark.parametrize(
    ("prompt", "system"),
    [
        ("Was ist das? Antworte auf Englisch.", ""),
        ("Was ist das?", "Answer in English."),
        ("Was ist das?", "Du bist die Filiale in London."),  # which the others have not
        ("Bitte übersetzen: Was ist das?", ""),
    ],
)
def test_not_where_something_says_which(prompt: str, system: str) -> None:
    assert severities(split(30, prompt, system)) == []


TEXTS = {
    # Few signs, and Wu and Yue are written nearly alike.
    "zh": "请每天早晚各服一片。饭后服用。如果发烧请打电话给我们的诊所。",
    "ja": "毎日朝と晩に一錠ずつ、食後に飲んでください。熱が出たら電話してください。",
    "sh": "Uzmite jednu tabletu dva puta dnevno poslije jela i nazovite nas ako dobijete groznicu.",
    "no": "Ta ei tablett to gonger om dagen etter maten. Eg veit ikkje kva du skal gjera viss "
    "du blir sjuk og ikkje kjem deg ut, men då kan du ringja oss heile natta.",
    "ms": "Minum satu tablet dua kali sehari sesudah makan, dan hubungi kami jika Anda demam.",
    "de": "Nehmen Sie zweimal am Tag eine Tablette nach dem Essen, und rufen Sie bitte an.",
}


@pytest.mark.parametrize("name", TEXTS)
def test_languages_are_told_as_macrolanguages(name: str) -> None:
    turns = (("user", ""), ("assistant", TEXTS[name]))
    short = (("user", ""), ("assistant", TEXTS[name][:9]))
    rows = tuple(RowText(i, f"d:{i}", turns if i else short, (False, True)) for i in range(4))
    assert languages_of(Sample("train", rows, 4, np.ones(4))).answers == {name: 3}
