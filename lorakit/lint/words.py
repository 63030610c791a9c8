"""Words of a text as rules compare them: case, punctuation and white space aside."""

from __future__ import annotations

import regex

# A word of letters and marks, a number, or a sign that means something (3+4 is not 3-4); of scripts
# that write no spaces, each character.
_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}]|\p{N}+|[\p{S}/*%^#@\\&-]|"
    r"[^\W\p{N}_\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}]+"
)
NUMBER = regex.compile(r"\p{N}+")


def words(text: str) -> list[str]:
    """The words of a text in order."""
    return _WORD.findall(text.casefold())


def normalized(text: str) -> str:
    """The words with single spaces: equal for texts that differ in case and punctuation alone.

    A text without any word is itself.
    """
    return " ".join(words(text)) or text.strip()
