"""What a reader sees of an HTML page, as paragraphs, each with the line it stands in."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_UNSEEN = frozenset({"script", "style", "head", "template", "noscript", "svg", "nav"})
_INLINE = re.compile(
    "a|abbr|b|bdi|bdo|cite|code|data|dfn|em|font|i|kbd|label|mark|q|s|samp|small|span|strong|sub|"
    "sup|time|tt|u|var|wbr"
)
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr", "source", "col", "area"})
_HEADING = re.compile(r"h[1-6]")


def html_text(page: str) -> tuple[str, tuple[int, ...]]:
    """Text of a page: blocks become paragraphs with a blank line between, headings begin with `#`.

    Returns:
        The text, and for each of its lines the 1-based line of the page it begins in.
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    reader.end_block()
    text = "\n\n".join(block for block, _ in reader.blocks)
    lines = [number for _, line in reader.blocks for number in (line, line)]
    return text, tuple(lines[:-1])


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, int]] = []
        self._pieces: list[str] = []
        self._line = 1
        self._unseen: list[str] = []
        self._heading = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        elif tag == "body":  # a head whose end tag is left out, which HTML allows
            self._unseen.clear()
        if not _INLINE.fullmatch(tag):
            self.end_block()
        if _HEADING.fullmatch(tag):
            self._heading = "#" * int(tag[1]) + " "

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            while self._unseen.pop() != tag:
                pass
        elif not _INLINE.fullmatch(tag) and tag not in _VOID:
            self.end_block()

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if not self._pieces:
            bare = data.lstrip()
            self._line = self.getpos()[0] + data[: len(data) - len(bare)].count("\n")
            data = bare
        if data:
            self._pieces.append(data)

    def end_block(self) -> None:
        """What was read since the last block is a paragraph."""
        text = " ".join("".join(self._pieces).split())
        if text:
            self.blocks.append((self._heading + text, self._line))
        self._pieces, self._heading = [], ""
