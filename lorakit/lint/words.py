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

# Of ASCII, then closing quotation marks, the ellipsis, and the full stops of Chinese.
_CLOSING = tuple(".!?:;)]}\"'`*>|\u201d\u2019\u00bb\u2026\u3002\uff01\uff1f")


def words(text: str) -> list[str]:
    """The words of a text in order."""
    return _WORD.findall(text.casefold())


def normalized(text: str) -> str:
    """The words with single spaces: equal for texts that differ in case and punctuation alone.

    A text without any word is itself.
    """
    return " ".join(words(text)) or text.strip()


def is_closed(text: str) -> bool:
    """Whether a text ends as whole ones do: in a full stop, a bracket, a quotation mark."""
    return text.rstrip().endswith(_CLOSING)
