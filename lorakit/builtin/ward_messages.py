"""Wording a case as the loose message of a nurse or doctor."""

from __future__ import annotations

import random
import re

from lorakit.builtin.ward_phrases import Phrases
from lorakit.builtin.ward_style import HEADINGS, Case

_WITH_ASIDE, _REQUEST_FIRST, _VERBATIM, _NATURAL_ORDER, _LOOSE, _LINES = (
    0.3,
    0.2,
    0.6,
    0.5,
    0.4,
    0.1,
)
_ADULT = 18
_PRONOUNS = {
    "man": {"He": "He", "he": "he", "him": "him", "His": "His"},
    "woman": {"He": "She", "he": "she", "him": "her", "His": "Her"},
}
_NOUNS = {"man": ("man", "man", "gentleman"), "woman": ("woman", "woman", "lady")}
_CHILDREN = {"man": ("boy",), "woman": ("girl",)}


def ward_message(
    rng: random.Random, case: Case, phrases: Phrases, order: tuple[str, ...] = HEADINGS
) -> str:
    """The message: the facts in varying order, now and then an aside, and what is asked for.

    Args:
        order: an order of sections that is asked for, unless it is the default.
    """
    opening = _opening(rng, case, phrases)
    facts = _facts(rng, case, phrases)
    if rng.random() > _NATURAL_ORDER:
        rng.shuffle(facts)
    sentences = [opening, *(sentence for fact in facts for sentence in fact)]
    if rng.random() < _WITH_ASIDE:
        sentences.insert(rng.randint(1, len(sentences)), rng.choice(phrases.asides))
    words = _PRONOUNS[case.sex]
    sentences = [_filled(sentence, words) for sentence in sentences]
    if rng.random() < _LOOSE:
        sentences = [_loose(sentence) for sentence in sentences]
    request = [rng.choice(phrases.requests)]
    if order != HEADINGS:
        request.append(_asked_order(rng, order, phrases))
    first = rng.random() < _REQUEST_FIRST
    parts = [*request, *sentences] if first else [*sentences, *request]
    return ("\n" if rng.random() < _LINES else " ").join(parts)


def _facts(rng: random.Random, case: Case, phrases: Phrases) -> list[list[str]]:
    """Sentences that stay together, for each fact that is known but the complaint."""
    facts = []
    if case.vitals:
        facts.append([rng.choice(phrases.measured).replace("{}", _vitals(rng, case, phrases))])
    if case.assessment:
        facts.append([_sentence(rng, phrases.assessments, case.assessment)])
    if case.plan:
        treatment, *others = case.plan
        facts.append(
            [_sentence(rng, phrases.treatments, treatment)]
            + [_sentence(rng, phrases.next_visits, other) for other in others]
        )
    if case.signs:
        facts.append([_sentence(rng, phrases.warnings, " or ".join(case.signs))])
    return facts


def _sentence(rng: random.Random, wordings: tuple[str, ...], fact: str) -> str:
    return _capital(rng.choice(wordings).replace("{}", fact))


def _opening(rng: random.Random, case: Case, phrases: Phrases) -> str:
    nouns = (_NOUNS if case.age >= _ADULT else _CHILDREN)[case.sex]
    patient = rng.choice(phrases.patients)
    patient = _filled(patient, {"age": str(case.age), "noun": rng.choice(nouns)})
    with_article = f"{_article(patient)} {patient}"
    words = {
        "Patient": _capital(patient),
        "a patient": with_article,
        "A patient": _capital(with_article),
        "bed": str(rng.randint(1, 30)),
        "complaint": _complaint(rng, case, phrases),
    }
    openings = phrases.openings if case.complaints else phrases.openings_alone
    sentence = _filled(rng.choice(openings), words)
    return _capital(re.sub(r",(?=[.,:]| -| \()", "", sentence))


def _complaint(rng: random.Random, case: Case, phrases: Phrases) -> str:
    complaint = " and ".join(case.complaints)
    exact = re.fullmatch(r"for (\d+) (\w+)", case.lasting)
    if exact is None or rng.random() < _VERBATIM:
        return f"{complaint} {case.lasting}".strip()
    words = {"complaint": complaint, "number": exact[1], "unit": exact[2]}
    return _filled(rng.choice(phrases.durations), words)


def _vitals(rng: random.Random, case: Case, phrases: Phrases) -> str:
    names = rng.choice(phrases.vital_names)
    values = [
        names[sign].replace("{over}", number.replace("/", " over ")).replace("{}", number)
        for sign, number in case.vitals.items()
    ]
    if rng.random() < 0.2:
        return f"{', '.join(values[:-1])} and {values[-1]}"
    return ", ".join(values)


def _asked_order(rng: random.Random, order: tuple[str, ...], phrases: Phrases) -> str:
    between = rng.choice(phrases.lists)
    words = {
        "order": between.join(order),
        "first": order[0],
        "rest": between.join(order[1:]),
        "start": between.join(order[:-1]),
        "last": order[-1],
    }
    return _filled(rng.choice(phrases.orders), words)


def _filled(sentence: str, words: dict[str, str]) -> str:
    """The sentence with every `{word}` replaced; the words of another step stay."""
    return re.sub(r"\{([^}]*)\}", lambda match: words.get(match[1], match[0]), sentence)


def _article(patient: str) -> str:
    return "an" if re.match(r"8|1[18]\b", patient) else "a"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _loose(sentence: str) -> str:
    """Typed in a hurry: no capital at the start, but `I` and abbreviations keep theirs."""
    if re.match(r"[A-Z][a-z]", sentence):
        return sentence[0].lower() + sentence[1:]
    return sentence
