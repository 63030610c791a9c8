"""Synonyms: every pair of the list, and where a word must stay."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from lorakit.data.synonyms import IDIOMS, Pair, pairs
from lorakit.data.varied import vary_text
from tests.data import wordnet_pairs

EXCHANGES = [(form, other) for pair in pairs() for form, other in pair.becomes.items()]
SEEDS = range(2)  # where any word may change, one does


def outcomes(text: str) -> set[str]:
    """All that a text becomes."""
    return {vary_text(text, "synonyms", seed=seed) for seed in SEEDS}


def test_every_pair_shares_a_meaning_in_wordnet() -> None:
    if not wordnet_pairs.FOLDER.is_dir():
        pytest.skip("WordNet is not installed (apt-get install wordnet-base)")
    meanings = wordnet_pairs.meanings_of_words()
    apart = [
        pair.words
        for pair in pairs()
        if meanings[pair.words[0]].isdisjoint(meanings[pair.words[1]])
    ]
    assert apart == []


def test_a_word_stands_in_one_line_and_a_form_on_one_side() -> None:
    times = Counter(form for pair in pairs() for form in pair.sides[0] | pair.sides[1])
    assert [form for form, count in times.items() if count > 1] == []
    for pair in pairs():
        assert not pair.sides[0] & pair.sides[1]
        for form, other in pair.becomes.items():
            assert re.fullmatch("[a-z]{3,}", form) and re.fullmatch("[a-z]{3,}", other)
            assert {form in side for side in pair.sides} == {True, False}
            assert (form in pair.sides[0]) == (other in pair.sides[1])


@pytest.mark.parametrize(("form", "other"), EXCHANGES)
def test_every_pair_both_ways_as_the_list_says(form: str, other: str) -> None:
    """The form becomes the other one; that becomes the form where the list has it so."""
    said = "I think that the {} ones are what they have there."
    assert outcomes(said.format(form)) == {said.format(other)}
    back = dict(EXCHANGES).get(other)
    assert outcomes(said.format(other)) == {said.format(back or other)}


KEPT = {
    "Spanish": "El {} no habla con los niños de la casa.",
    "Spanish with English words": "El profesor dice {} y the como en la casa.",
    "Dutch": "De {} zit in een auto en wat doet hij is not.",
    "German": "Der {} ist in dem Haus und hat that nicht.",
    "French": "Les {} sont dans la maison avec this.",
    "Danish": "Det er {} for os og til dem.",
    "no sentence": "{} pupil",
    "fenced code": "What does this do?\n```\nthe {} = what\n```",
    "code in a line": "What does `the {} one` do in this?",
    "quotation": 'What did she say by "it is {} the one" to you?',
    "single quotes": "What did she say by 'it is {} the one' to you?",
    "call": "def f({}): return that",
    "Python": "for that in {}:\n    print(the)",
    "Python in one line": "for this in {}: that",
    "unfenced code": "def f(these): return {}",
    "unfenced statement": "return {}\nwhat",
    "SQL": "select {} from the table where that has it",
    "also in code": "What is the {0} that you have in `f = {0}`?",
    "also in an identifier": "What is the {0} that the_{0}_2 has?",
    "also quoted": 'What is the {0} that "the {0}" has?',
    "also with a hyphen": "What is the {0} that they have {0}-like?",
    "also as a name": "What is the {0} that THE {0} would have?",
    "possessive": "What is it that the {}'s one would have?",
    "option": "Which would you have: {}, rest or water?",
    "field": "What would they have?\n{}: it is there",
    "before a number": "What would they have {} 5 times?",
    "about words": "Which word is the synonym of {} that you would choose?",
    "to translate": "Please translate that the {} ones are there.",
    "capital": "It is what the {} ones would have.",
}
CAPITALS = {"also as a name", "capital"}


@pytest.mark.parametrize("where", KEPT)
def test_a_word_stays_where_it_must(where: str) -> None:
    """Every form of the list."""
    for form in dict(EXCHANGES):
        text = KEPT[where].format(form)
        if where in CAPITALS:
            text = (
                text.replace(f"THE {form}", f"THE {form.upper()}")
                if "THE" in text
                else (text.replace(form, form.capitalize()))
            )
        assert outcomes(text) == {text}


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: "-".join(pair.words))
def test_a_word_stays_where_a_form_does_that_has_no_other(pair: Pair) -> None:
    """And where the other word is in the text as well."""
    for staying in (pair.sides[0] | pair.sides[1]) - set(pair.becomes):
        for form in pair.becomes:
            text = f"I think that the {form} ones are what this {staying} would have."
            assert outcomes(text) == {text}


@pytest.mark.parametrize("idiom", IDIOMS)
def test_idioms_stay(idiom: str) -> None:
    text = f"I think that this is {idiom} what they would have."
    assert outcomes(text) == {text}
    words = set(idiom.split())
    assert words & {form for pair in pairs() for side in pair.sides for form in side}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "How often should my physician calculate the dose?",
            {"often": "frequently", "physician": "doctor", "calculate": "compute"},
        ),
        ("The lawyer is an attorney that they have.", {}),  # both words
        (
            "My lawyer has often seen what lawyers do.",
            {"lawyer": "attorney", "often": "frequently"} | {"lawyers": "attorneys"},
        ),
        ("What is an automobile that they have, an eggplant or this?", {"eggplant": "aubergine"}),
        ("Is this a lawyer that you have?", {}),  # an attorney
        ("The doctor said that these students earn a commission of what they have.", {}),
        ("Be kind to the teacher. A leaf falls from a tree. How many nurses do they use?", {}),
        ("The required dose is what they have left, said the cattle.", {}),
        ("I often begin with this.\nDer Lehrer ist often da.", {"begin": "start"}),  # all or none
    ],
)
def test_what_whole_sentences_become(text: str, told: dict[str, str]) -> None:
    before, changed = re.findall(r"\w+", text), {}
    for seed in range(40):
        after = re.findall(r"\w+", vary_text(text, "synonyms", seed=seed))
        assert len(before) == len(after)
        changed |= {a: b for a, b in zip(before, after, strict=True) if a != b}
    assert changed == told
