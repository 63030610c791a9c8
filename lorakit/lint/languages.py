"""Which languages prompts and answers are in, by py3langid on texts long enough to tell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import regex

from lorakit.lint.row_texts import RowText, Sample

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

MAX_ROWS = 1_000
MIN_LETTERS = 60  # below this a language is a guess
# A character of these scripts says as much as some three letters of an alphabet.
DENSE_LETTERS = 3
MAX_CHARACTERS = 600
SURE = 0.99
# Of the identifier's languages those that ISO 639-3 puts into one: a few sentences do not tell
# written Chinese from Wu or Yue, nor Bokmal from Nynorsk.
MACROLANGUAGES = {
    **dict.fromkeys(("ary", "arz"), "ar"),
    **dict.fromkeys(("bs", "hr", "sr"), "sh"),
    **dict.fromkeys(("wuu", "yue"), "zh"),
    "id": "ms",
    "ltg": "lv",
    "nn": "no",
    "sdh": "ku",
    "uzs": "uz",
}
NO_LANGUAGE = "zxx"
MAX_POOLED = 40  # short questions that are read as one text
MIN_USUAL = 2  # words that at least half of the questions have
# In English, in themselves and in some neighbours, as prompts name the language of an answer.
NAMES = {
    "ar": ("arabic", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629"),
    "de": ("german", "deutsch", "allemand", "alem\u00e1n", "tedesco"),
    "en": ("english", "englisch", "anglais", "ingl\u00e9s", "ingl\u00eas", "inglese", "engels"),
    "es": ("spanish", "espa\u00f1ol", "spanisch", "espagnol", "spagnolo", "castellano"),
    "fr": ("french", "fran\u00e7ais", "franz\u00f6sisch", "franc\u00e9s", "francese"),
    "hi": ("hindi", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0902\u0926\u0940"),
    "it": ("italian", "italien", "italiano"),
    "ja": ("japanese", "\u65e5\u672c\u8a9e", "japanisch", "japonais"),
    "ko": ("korean", "\ud55c\uad6d\uc5b4", "koreanisch", "cor\u00e9en"),
    "nl": ("dutch", "nederlands", "niederl\u00e4ndisch"),
    "pl": ("polish", "polsk", "polnisch"),
    "pt": ("portuguese", "portugu\u00eas", "portugiesisch", "portugais"),
    "ru": ("russian", "\u0440\u0443\u0441\u0441\u043a", "russisch", "russe"),
    "tr": ("turkish", "t\u00fcrk\u00e7e", "t\u00fcrkisch"),
    "zh": ("chinese", "\u4e2d\u6587", "\u6c49\u8bed", "chinesisch", "chinois"),
}
_DENSE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")
_NO_PROSE = regex.compile(r"```.*?(```|\Z)|https?://\S+|[^\p{L}\s'\u2019]", regex.DOTALL)


@dataclass(frozen=True)
class Languages:
    """Languages by their ISO 639 codes.

    Attributes:
        answers: rows by the language of their answer, of short ones of question and answer; JSON
            is in none.
        by_row: (row, language of its prompt, of its answer), where both are sure.
        of_answer: {language: its rows}.
        untold: {language of the answer: rows whose question is too short to tell}.
    """

    answers: Counter[str] = field(default_factory=Counter)
    by_row: list[tuple[RowText, str, str]] = field(default_factory=list)
    of_answer: dict[str, list[RowText]] = field(default_factory=dict)
    untold: dict[str, list[RowText]] = field(default_factory=dict)

    def asked_in(self, answered: str) -> str | None:
        """The language of the short questions whose answers are in `answered`: all read as one
        text, or that of most answers where their questions share their usual words; otherwise
        None."""
        questions = list(dict.fromkeys(row.question for row in self.untold.get(answered, [])))
        picked = np.unique(np.linspace(0, len(questions) - 1, min(len(questions), MAX_POOLED)))
        told = _language("\n".join(questions[int(i)] for i in picked.round()))
        main = self.answers.most_common(1)[0][0]
        if told is not None or not self.untold.get(main):
            return told
        usual = _usual_words(row.question for row in self.untold[main])
        shared = len(usual) >= MIN_USUAL and usual <= _usual_words(questions)
        return main if shared else None


def languages_of(sample: Sample, max_rows: int = MAX_ROWS) -> Languages:
    """Languages of so many rows, evenly spread."""
    found = Languages()
    picked = np.unique(np.linspace(0, len(sample) - 1, min(len(sample), max_rows)).round())
    for i in picked.astype(int):
        row = sample.rows[i]
        if _is_structured(row.answer):
            continue
        answered = _language(row.answer)
        if answered is None:  # short: what question and answer are in together
            answered = _language(f"{row.question} {row.answer}")
            if answered is not None:
                found.answers[answered] += 1
                found.of_answer.setdefault(answered, []).append(row)
            continue
        found.answers[answered] += 1
        found.of_answer.setdefault(answered, []).append(row)
        asked = _language(row.question) if row.question else None
        if asked is not None:
            found.by_row.append((row, asked, answered))
        elif row.question:
            found.untold.setdefault(answered, []).append(row)
    return found


def _usual_words(questions: Iterable[str]) -> set[str]:
    """Words that half of the questions have, and more."""
    words = [set(question.casefold().split()) for question in questions]
    counts = Counter(word for one in words for word in one)
    return {word for word, count in counts.items() if 2 * count >= len(words)}


def _language(text: str) -> str | None:
    """None for a text too short, or between two languages."""
    prose = " ".join(_NO_PROSE.sub(" ", text[: 4 * MAX_CHARACTERS]).split())[:MAX_CHARACTERS]
    letters = sum(map(str.isalpha, prose)) + (DENSE_LETTERS - 1) * len(_DENSE.findall(prose))
    if letters < MIN_LETTERS:
        return None
    shares: Counter[str] = Counter()
    for name, share in _identifier().rank(prose):
        shares[MACROLANGUAGES.get(name, name)] += share
    name, share = shares.most_common(1)[0]
    return name if share >= SURE and name != NO_LANGUAGE else None


def _is_structured(answer: str) -> bool:
    """Whether an answer is a JSON object or list, whose keys and values tell no language."""
    if not answer.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return True


def forget_models() -> None:
    """Let go of the models of languages (some 65 MiB), which the next text would load again."""
    _identifier.cache_clear()


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
