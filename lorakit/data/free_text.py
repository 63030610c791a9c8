"""Which parts of a prompt may be said otherwise, and which must stay as they are.

Numbers, code, quotations, formulas, options to choose from, places to be filled in, addresses and
names with digits or signs in them are what an answer may depend on letter by letter.
"""

from __future__ import annotations

import regex

_STAYS = regex.compile(
    r"""
    (?:```|~~~).*?(?:```|~~~|\Z)              # fenced code
    | ^(?:\ {4}|\t)\S[^\n]*                   # indented code
    | ^\ {0,3}\(?(?:[A-Za-z]|\d{1,2})[.)]\ [^\n]*  # options to choose from, numbered points
    | `[^`\n]*`                               # code in a line
    | \$\$.*?\$\$ | \$(?![\s\d])[^$\n]+(?<!\s)\$(?!\d)   # formulas, as pandoc tells them from money
    | "[^"]*" | “[^“”]*” | „[^„“”]*[“”] | «[^«»]*» | »[^«»]*« | 「[^「」]*」
    | (?<!\w)'[^'\n]+'(?!\w) | (?<!\w)\u2018[^\u2018\u2019\n]+\u2019(?!\w)
    | <[^<>\n]*> | \{[^{}]*\} | \[\[?[^\[\]\n]*\]?\]   # tags and places to be filled in
    # Numbers, paths, addresses, identifiers, operators. That the first sign of these stands within
    # some characters keeps the time linear for texts without blanks.
    | [^\s<>\p{N}_@/\\=|#*+^~]{0,50}+[\p{N}_@/\\=|#*+^~][^\s<>]*
    | \b\w+(?:\.\w+)+\b                       # names.with.dots, e.g.
    | \b\w+\([^()\n]*\)                       # calls()
    """,
    regex.VERBOSE | regex.DOTALL | regex.MULTILINE,
)
_LETTER = regex.compile(r"\p{L}")


def split_free(text: str) -> tuple[list[str], list[str]]:
    """The free stretches of a text, and what stays between them.

    Returns:
        (free, kept): one more free stretch than kept ones, possibly empty ones among them, such
        that free[0] + kept[0] + free[1] + ... is the text.
    """
    free, kept, end = [], [], 0
    for found in _STAYS.finditer(text):
        free.append(text[end : found.start()])
        kept.append(found[0])
        end = found.end()
    return [*free, text[end:]], kept


def join_free(free: list[str], kept: list[str]) -> str:
    """The text again; the inverse of `split_free`."""
    return free[0] + "".join(k + f for k, f in zip(kept, free[1:], strict=True))


def is_beside_what_stays(found: regex.Match, piece: str, *, is_first: bool, is_last: bool) -> bool:
    """Whether no word stands between a match in a free stretch and what stays at either end.

    Args:
        found: in `piece`.
        is_first, is_last: whether the stretch is the first or last one of the text.
    """
    before, after = piece[: found.start()], piece[found.end() :]
    return (not is_first and not _LETTER.search(before)) or (
        not is_last and not _LETTER.search(after)
    )
