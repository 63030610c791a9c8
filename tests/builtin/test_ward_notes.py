"""The built-in data: reproducible, true to its prompts, in the house style, and no set leaks."""

from __future__ import annotations

import collections
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lorakit.builtin import data_folder, model_folder, ward_notes
from lorakit.builtin.arithmetic import is_held_out
from lorakit.builtin.row_files import write_sets
from lorakit.builtin.ward_style import HEADINGS, NOT_STATED, OPENINGS, bare
from lorakit.builtin.ward_topics import Topic, trained_topics, unseen_topics
from lorakit.data.conversation import Conversation
from lorakit.data.detect import converter_for
from lorakit.data.sources import read_rows
from tests.builtin.shipped import shipped_rows

WARD_SETS = ("train", "in_domain", "out_of_domain")
SKILL_SETS = ("retention", "general")
SETS = (*WARD_SETS, *SKILL_SETS)
TOPICS = {bare(topic.name): topic for topic in (*trained_topics(), *unseen_topics())}
SECTION = re.compile(r"(Reason|Findings|Assessment|Plan|Safety): (\S.*)")
LASTING = re.compile(r"(.*?)(?: for (\d+ \w+)| (since \w+(?: \w+)?))?")
HEADING = re.compile(rf"\b(?:{'|'.join(HEADINGS)})\b")
ROOM = re.compile(r"\b(room|bed|bay|cubicle) \d", re.IGNORECASE)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    return shipped_rows(SETS)


def prompt(row: dict[str, Any]) -> str:
    return row["messages"][-2]["content"]


def answer(row: dict[str, Any]) -> str:
    return row["messages"][-1]["content"]


def sections(row: dict[str, Any]) -> dict[str, str]:
    """{heading: content} in the order of the lines; fails where a line is no section."""
    matches = [SECTION.fullmatch(line) for line in answer(row).split("\n")]
    assert all(matches), answer(row)
    return {match[1]: match[2] for match in matches if match}


def asked_orders(rows: list[dict[str, Any]]) -> list[str]:
    return [row["order"] for row in rows if row["order"] != "default"]


@pytest.mark.slow  # a minute or two
def test_the_generator_writes_the_shipped_bytes(tmp_path: Path) -> None:
    write_sets(tmp_path, ward_notes.ward_sets())
    for name in SETS:
        written, shipped = (folder / f"{name}.jsonl" for folder in (tmp_path, data_folder()))
        assert written.read_bytes() == shipped.read_bytes(), name


def test_another_seed_gives_other_rows(rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ward_notes, "TRAIN_PER_TOPIC", 1)  # all of them take a minute
    other = ward_notes.ward_sets(seed=1)
    for name in SETS:
        assert other[name] and len(other[name]) <= len(rows[name])
        assert not {answer(row) for row in other[name] if name in WARD_SETS} & {
            answer(row) for row in rows[name]
        }
        assert other[name] != rows[name]


def test_the_sets_are_as_large_as_the_card_says(rows) -> None:
    assert {name: len(rows[name]) for name in SETS} == {
        "train": 2496,
        "in_domain": 100,
        "out_of_domain": 100,
        "retention": 100,
        "general": 800,
    }
    assert (data_folder() / "train.jsonl").stat().st_size < 1_700_000
    assert sum(path.stat().st_size for path in data_folder().iterdir()) < 2_900_000
    topics = {name: {row["topic"] for row in rows[name]} for name in SETS}
    assert len(topics["train"]) == 156
    assert len(topics["in_domain"]) == 100
    assert topics["in_domain"] <= topics["train"]
    assert len(topics["out_of_domain"]) == 16


@pytest.mark.parametrize("name", SETS)
def test_every_row_is_read_as_a_conversation_that_ends_with_an_answer(name: str) -> None:
    read = list(read_rows(str(data_folder() / f"{name}.jsonl")))
    convert = converter_for(read[0])
    assert convert.name == "messages"
    for row in read:
        conversation = convert(row)
        assert isinstance(conversation, Conversation)
        roles = [message["role"] for message in conversation.messages]
        assert roles[-2:] == ["user", "assistant"]


@pytest.mark.parametrize("name", WARD_SETS)
def test_every_answer_has_the_five_sections_in_the_order_asked_for(name: str, rows) -> None:
    for row in rows[name]:
        order = ", ".join(sections(row))
        if row["order"] == "default":
            assert order == ", ".join(HEADINGS)
            assert not HEADING.search(prompt(row)), row
        else:
            assert order == row["order"] != ", ".join(HEADINGS)
            assert HEADING.findall(prompt(row)) == order.split(", ")


@pytest.mark.parametrize("name", WARD_SETS)
def test_the_register_is_the_house_s(name: str, rows) -> None:
    for row in rows[name]:
        for heading, text in sections(row).items():
            assert text.startswith(f"{OPENINGS[heading]} ") or text == NOT_STATED
        assert not re.search(r"\.(\s|$)|\b(I|we|he|she|his|her)\b", answer(row))
        said = stated(sections(row))
        # A warning is a clause, "if a fit starts", and keeps its articles.
        assert not any(said.get(part, "").startswith(("a ", "an ")) for part in HEADINGS[:-1])
        assert not re.search(r"\b(bp|HR|RR|sats|temp)\b|\d over \d", answer(row))


@pytest.mark.parametrize("name", WARD_SETS)
def test_every_fact_of_the_answer_is_in_the_prompt(name: str, rows) -> None:
    for row in rows[name]:
        for fact in stated_facts(sections(row)):
            assert fact.lower() in prompt(row).lower(), (fact, row)


def stated_facts(found: dict[str, str]) -> list[str]:
    """What the sections say, without what the house adds."""
    known = stated(found)
    facts = []
    if "Reason" in known:
        match = LASTING.fullmatch(known["Reason"])
        assert match
        facts += [*match[1].split(" and "), *(lasting for lasting in match.groups()[1:] if lasting)]
    facts += NUMBER.findall(known.get("Findings", ""))
    facts += [known["Assessment"]] if "Assessment" in known else []
    facts += known["Plan"].split(", ") if "Plan" in known else []
    if "Safety" in known:
        facts += known["Safety"].split(" or ")
    return facts


def stated(found: dict[str, str]) -> dict[str, str]:
    """The sections that say something, without the house's opening."""
    return {
        heading: text.removeprefix(f"{OPENINGS[heading]} ")
        for heading, text in found.items()
        if text != NOT_STATED
    }


@pytest.mark.parametrize("name", WARD_SETS)
def test_every_fact_of_the_prompt_is_in_the_answer(name: str, rows) -> None:
    for row in rows[name]:
        text, found = prompt(row), stated(sections(row))
        topic = TOPICS[row["topic"]]
        told = [item for item in topic.complaints if bare(item) in text.lower()]
        # A sign may name a complaint (nausea, fever), so only unmentioned ones are certain.
        assert told or "Reason" not in found
        lower = text.lower()
        named = re.search(rf"\b{re.escape(row['topic'].lower())}\b", lower) is not None
        assert named == (found.get("Assessment") == row["topic"]), row
        treated = any(drug(plan).lower() in lower for plan in topic.plans)
        assert treated == ("Plan" in found), row
        warned = any(sign.split(" {")[0].lower() in lower for sign in topic.signs)
        assert warned == ("Safety" in found), row
        # Every number but the age and the room's.
        left = collections.Counter(NUMBER.findall(text))
        left -= collections.Counter(NUMBER.findall(answer(row)))
        assert sum(left.values()) == 1 + bool(ROOM.search(text)), row


def drug(plan: str) -> str:
    return re.split(r" \d| \{", plan)[0]


def test_a_number_of_the_findings_is_that_of_its_vital_sign(rows) -> None:
    between = r"(?:|:| of| is| was| at| =| now| measured| -) "
    wordings = {
        "BP {} mmHg": rf"\b(?:bp|(?:blood )?pressure){between}(\d+)(?:/| over )(\d+)",
        "pulse {}/min": rf"\b(?:pulse(?: rate)?|heart rate|HR){between}(\d+)",
        "temperature {} °C": rf"\b(?:temp|temperature){between}(\d+\.\d)",
        "oxygen saturation {}%": rf"\b(?:sats?|oxygen(?: saturation| level)?){between}(\d+)",
        "respiratory rate {}/min": (
            rf"\b(?:RR|breaths|breathing|(?:breathing|resp|respiratory) rate){between}(\d+)"
        ),
    }
    for row in (row for name in WARD_SETS for row in rows[name]):
        expected = []
        for form, pattern in wordings.items():
            match = re.search(pattern, prompt(row), re.IGNORECASE)
            if match:
                expected.append(form.format("/".join(filter(None, match.groups()))))
        assert stated(sections(row)).get("Findings", "") == ", ".join(expected), row


def test_messages_are_whole_english_sentences(rows) -> None:
    for row in (row for name in WARD_SETS for row in rows[name]):
        text = prompt(row)
        assert not re.search(r"[{}]|,[.,:]|, -|\.\.|  ", text), text
        assert not re.search(r"\ba (8|11\b|18\b|[aeio])|\ban (?!8|11\b|18\b|hour|[aeiou])", text), (
            text
        )
        assert text.endswith((".", "?"))


def test_no_row_is_in_two_sets_nor_nearly(rows) -> None:
    # The general set asks the same kinds of question as retention, so only for no same one.
    sets = (*WARD_SETS, "retention")
    pairs = {name: [ward_notes.word_pairs(prompt(row)) for row in rows[name]] for name in sets}
    seen: list[set[tuple[str, str]]] = []
    answers: set[str] = set()
    for name in sets:
        assert not any(
            ward_notes.near(mine, other) for mine in pairs[name] for other in seen if mine & other
        ), name
        seen += pairs[name]
    for name in WARD_SETS:
        mine = [answer(row) for row in rows[name]]
        assert len(set(mine)) == len(mine)
        assert not answers & set(mine)
        answers |= set(mine)
    asked = [prompt(row) for name in SETS for row in rows[name]]
    assert len(set(asked)) == len(asked)


def test_near_is_told_from_new() -> None:
    text = "54 year old man with cough for 3 days. Start amoxicillin 1 g. Write the note."
    changed = text.replace("54", "61").replace("3 days", "4 days")
    other = "Lady of 30, earache. We start ibuprofen 400 mg. Please document this."
    pairs = ward_notes.word_pairs
    assert ward_notes.near(pairs(text), pairs(changed))
    assert not ward_notes.near(pairs(text), pairs(other))


def test_nothing_of_an_unseen_topic_or_wording_is_trained(rows) -> None:
    trained = "\n".join(prompt(row) + "\n" + answer(row) for row in rows["train"]).lower()
    for topic in unseen_topics():
        for text in said_of(topic):
            assert not re.search(rf"\b{re.escape(text.lower())}\b", trained), text
    for wording in unseen_wordings():
        assert wording.lower() not in trained, wording


def said_of(topic: Topic) -> list[str]:
    nouns = [bare(noun) for noun in (topic.name, *topic.complaints)]
    return [*nouns, *map(drug, topic.plans), *(sign.split(" {")[0] for sign in topic.signs)]


def test_no_telling_word_of_the_unseen_wordings_is_trained() -> None:
    phrases = ward_notes.TRAINED_PHRASES
    templates = [
        *phrases.patients, *phrases.durations, *phrases.openings, *phrases.openings_alone,
        *phrases.measured, *phrases.assessments, *phrases.treatments, *phrases.next_visits,
        *phrases.warnings, *phrases.asides, *phrases.requests, *phrases.orders,
    ]  # fmt: skip
    words = set(re.findall(r"[a-z]+", " ".join(templates).lower()))
    # "agreed" and "take" are shared: see the treatments' wordings on words that open as "a" does.
    telling = {
        "ahead", "aged", "arrange", "begin", "chart", "checked", "clinically", "entry",
        "followed", "hospital", "immediately", "impression", "monitor", "nurse", "points",
        "prescribed", "readings", "reports", "rush", "sequence", "settled", "sort", "straight",
        "suffering", "turn", "turned", "warned",
    }  # fmt: skip
    assert not words & telling


def test_the_training_wordings_are_many() -> None:
    phrases = ward_notes.TRAINED_PHRASES
    forms = {tuple(names.values()) for names in phrases.vital_names}
    assert len(forms) >= 100
    slots = {
        "durations": 25, "openings": 80, "openings_alone": 25, "measured": 80,
        "assessments": 150, "treatments": 100, "next_visits": 40, "warnings": 150, "asides": 50,
        "requests": 60, "orders": 50,
    }  # fmt: skip
    for slot, count in slots.items():
        assert len(set(getattr(phrases, slot))) >= count, slot


def unseen_wordings() -> list[str]:
    """The longest fixed part of every template that only out_of_domain uses."""
    phrases = ward_notes.UNSEEN_PHRASES
    templates = [
        *phrases.openings, *phrases.measured, *phrases.assessments, *phrases.treatments,
        *phrases.next_visits, *phrases.warnings, *phrases.asides, *phrases.requests,
        *phrases.orders, *phrases.durations, phrases.seen_again,
        *(form for names in phrases.vital_names for form in names.values()),
    ]  # fmt: skip
    return [max(re.split(r"\{[^}]*\}", template), key=len).strip(" .,") for template in templates]


def test_orders_of_evaluation_are_never_trained(rows) -> None:
    orders = {name: asked_orders(rows[name]) for name in WARD_SETS}
    for name, share in {"train": 0.65, "in_domain": 0.3, "out_of_domain": 0.3}.items():
        assert len(orders[name]) == pytest.approx(share * len(rows[name]), abs=1)
    assert len(set(orders["train"])) == 89
    for name in ("in_domain", "out_of_domain"):
        assert len(set(orders[name])) == len(orders[name])
        assert not set(orders[name]) & set(orders["train"])
        assert len(set(orders[name])) == 30


def test_rows_are_short_enough_for_the_base(rows) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    for name in WARD_SETS:
        for row in rows[name]:
            assert len(tokenizer.encode(prompt(row))) <= 130, row
            assert len(tokenizer.encode(answer(row))) <= 110, row


@pytest.mark.parametrize("name", SKILL_SETS)
def test_retention_and_general_ask_for_what_the_base_could_do(name: str, rows) -> None:
    mix = collections.Counter(row["topic"] for row in rows[name])
    times = ward_notes.GENERAL_TIMES if name == "general" else 1
    assert mix == {part: times * count for part, (_, count) in ward_notes.RETENTION.items()}
    for row in rows[name]:
        assert row["order"] == "none"
        assert not re.search(r"^(Findings|Assessment|Safety): ", answer(row), re.MULTILINE)
        found = re.search(r"(\d+) ([-+*]) (\d+)", prompt(row))
        if found:
            assert is_held_out(int(found[1]), int(found[3]), found[2]) == (name == "retention")
