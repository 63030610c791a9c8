"""Words of a text as rules compare them: case, punctuation and white space aside."""

from __future__ import annotations

import re

# Scripts that write no spaces: Thai, Lao, Khmer, kana, and Chinese characters.
_UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# A word of letters, a number, or a sign that means something (3+4 is not 3-4); of scripts without
# spaces each character.
_WORD = re.compile(
    rf"[{_UNSPACED}]|\d+|[-+<=>|~^$€£¥/*%#@\\&±×÷≤≥→√∑∫°]|[^\W\d_{_UNSPACED}]+"  # noqa: RUF001
)


def words(text: str) -> list[str]:
    """The words of a text in order."""
    return _WORD.findall(text.casefold())


def normalized(text: str) -> str:
    """The words with single spaces: equal for texts that differ in case and punctuation alone.

    A text without any word is itself.
    """
    return " ".join(words(text)) or text.strip()
