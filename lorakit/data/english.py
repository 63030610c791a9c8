"""Where a text is plainly English prose: not code, nor another language.

Small words tell: the commonest English ones that French, Spanish, Italian, Portuguese, German,
Dutch and the Scandinavian languages do not have. A guess from letters needs some sixty of them
(`lint.languages`), which a question has seldom.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import regex

from lorakit.data.free_text import join_free

# Not `is`, `of`, `in`, `was`, `had` (Dutch), `am`, `an`, `will` (German), `me`, `he`, `no`
# (Spanish), `on`, `a`, `as` (French, Portuguese), `for`, `at` (Danish), `i`.
_ENGLISH = frozenset(
    (  # noqa: SIM905
        "the and what how which why when where who whose you your yours that this these those "
        "with from have has are were they their there his she would could should does did can my "
        "it its if but many much not been being our into about than then some any each every "
        "please"
    ).split()
)
# Any of these makes a sentence another language, or mixed; hardly one is an English word.
_OTHER = frozenset(
    (  # noqa: SIM905
        "el los las una unos unas del que por para con como est\u00e1 es la le les des du une "
        "et est dans avec sur qui pas sont il lo gli della che di sono um uma os dos das "
        "n\u00e3o der das dem ein eine einen einem ist sind und nicht mit auf f\u00fcr von zu "
        "wie wo wer ich sie wir het een zijn niet ik je hij wat voor naar det ikke som til av "
        "att och \u00e4r inte p\u00e5"
    ).split()
)
MIN_SHARE = 1 / 8  # of a sentence's words; running English has about every third
# Sentences end where a mark is followed by a blank: `e.g.` may cut one, which makes it stricter.
_SENTENCE = regex.compile(r"[^\n.?!]+(?:[.?!]+(?!\s)[^\n.?!]+)*[.?!]*\s*|\n|[.?!]+\s*")
_WORDS = regex.compile(r"\p{L}+")
# What a line of code has, and one of prose does not. Fences and indentation are no part of prose.
_CODE = regex.compile(
    r"""
    \w\( | [;{}]\s*$ | [=<>|&] | -> | :: | \[\w*\] | :\s*return\b
    | ^\s*(?:\#include|//|/\*|\$\s|>>>)
    | ^\s*(?:def|class|import|return|elif|try|except|finally|public|private|static|void|const|let
        |var|func|function|echo|sudo|print|assert|yield|raise|throw|package|using|SELECT|INSERT|UPDATE
        |DELETE|CREATE)\b(?!.*[.?!]\s*$)
    | ^\s*(?:if|for|while|else|elif|with|switch|case|from)\b.*:\s*$
    | ^\s*for\s[\w,]+\sin\s.*:
    | \b(?i:select)\s.+\s(?i:from)\b
    """,
    regex.VERBOSE,
)
# Delimited, so that the sentence around may be prose: `code`, "words".
_DELIMITED = ("`", '"', "\u201c", "\u201e", "'", "\u2018", "$")
_ABOUT_WORDS = regex.compile(
    r"\b(?:synonym|antonym|word|spell|defin|rhym|letter|translat|grammar|sentence|meaning|phrase"
    r"|vocabular|pronounc|paraphras|rephras|rewrit|proofread|verb|noun|adverb|adjective|acronym"
    r"|regex|syllab|alphabet|capital|uppercase|lowercase|anagram|palindrom|crossword|etymolog)\w*"
    r"|\bdoes\s(?:\S+\s){1,4}mean\b|\bdifference\sbetween\b",
    regex.IGNORECASE,
)


def asks_about_words(text: str) -> bool:
    """Whether a text may be about its own words, as a task to translate or to define is."""
    return bool(_ABOUT_WORDS.search(text))


def english_prose(pieces: list[str], kept: list[str]) -> Callable[[int], bool]:
    """Which places of a text are in a sentence that is plainly English and in no line of code.

    Args:
        pieces, kept: the text, see `free_text.split_free`.

    Returns:
        A function from a character's position to whether it is.
    """
    blank = join_free(
        pieces, [" " * len(one) if one.startswith(_DELIMITED) else one for one in kept]
    )
    begins, verdicts = [0], [False]
    line_begin = 0
    for line in blank.splitlines(keepends=True):
        is_code = bool(_CODE.search(line.rstrip()))
        for sentence in _SENTENCE.finditer(line):
            begins.append(line_begin + sentence.start())
            verdicts.append(not is_code and _is_english(sentence[0]))
        line_begin += len(line)
    return lambda place: verdicts[bisect_right(begins, place) - 1]


def _is_english(sentence: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(sentence)]
    if not words or not _OTHER.isdisjoint(words):
        return False
    return sum(word in _ENGLISH for word in words) >= max(1, MIN_SHARE * len(words))
