"""Examples for a prompt are alike, never the question itself, and never more than there is room."""

from __future__ import annotations

import pytest

from lorakit.compare.few_shot import FewShot, near_duplicates
from lorakit.data.reading import DataRules, read_meanings

ROWS = [
    {"prompt": "What helps against a dry cough at night?", "completion": "Honey."},
    {"prompt": "what helps against a DRY cough, at night", "completion": "Honey, twice."},
    {"prompt": "What helps against a dry cough in children?", "completion": "Warm drinks."},
    {"prompt": "Which vaccine protects from measles?", "completion": "MMR."},
    {"prompt": "What helps against a wet cough?", "completion": "Water."},
]


def few_shot(rows: list[dict[str, object]], **rules: object) -> FewShot:
    meanings = read_meanings([rows], DataRules(**rules))  # type: ignore[arg-type]
    return FewShot([meaning.conversation for meaning in meanings], seed=0)


def answers(turns: list[tuple[dict[str, object], ...]]) -> list[object]:
    return [one[-1]["content"] for one in turns]


def test_the_most_similar_first_and_never_the_question_itself() -> None:
    shots = few_shot(ROWS)
    assert shots.pool == 5
    found = answers(shots.like("What helps against a dry cough at night?", 4))
    assert found == ["Warm drinks.", "Water."]  # measles shares no word but stop words
    assert answers(shots.like("What helps against a dry cough at night?", 1)) == ["Warm drinks."]
    assert shots.like("Zebra?", 3) == []


def test_the_system_message_is_not_said_again_and_all_turns_are_told() -> None:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "I cough."},
                {"role": "assistant", "content": "Since when?"},
                {"role": "user", "content": "Since the cold in winter."},
                {"role": "assistant", "content": "Rest."},
            ]
        },
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]},
    ]
    (turns,) = few_shot(rows).like("Cold since last winter?", 2)
    assert [m["role"] for m in turns] == ["user", "assistant", "user", "assistant"]


def test_rows_without_a_question_are_no_examples() -> None:
    assert few_shot([{"text": "Cough is common."}], format="text").pool == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What is asthma?", "what is ASTHMA", True),
        ("Asthma: what is it?", "What is asthma?", True),  # the same words, in another order
        ("What is asthma?", "What is angina?", False),
        ("List the causes of type 1 diabetes", "List the causes of type 2 diabetes", False),
        ("", "What is asthma?", False),
    ],
)
def test_near_duplicates(one: str, other: str, same: bool) -> None:
    assert near_duplicates(one, other) is same


def test_a_long_text_with_one_word_changed_is_a_near_duplicate() -> None:
    words = [f"finding{n}" for n in range(40)]
    other = [*words[:20], "pulse", *words[21:]]
    assert near_duplicates(" ".join(words), " ".join(other))
    assert not near_duplicates(" ".join(words), " ".join(words[:20] + [f"x{n}" for n in range(20)]))
