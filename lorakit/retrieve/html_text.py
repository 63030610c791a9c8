"""What a reader sees of an HTML page, as paragraphs, each line with the page's it stands in."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_UNSEEN = frozenset({"script", "style", "head", "template", "noscript", "svg", "nav"})
# HTML gives all that follows to one of these that is not closed.
_TAKES_THE_REST = frozenset({"script", "style"})
_ENDS_UNSEEN = frozenset({"body", "main", "article"})
_INLINE = re.compile(
    "a|abbr|b|bdi|bdo|cite|code|data|dfn|em|font|i|kbd|label|mark|q|s|samp|small|span|strong|sub|"
    "sup|time|tt|u|var|wbr"
)
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr", "source", "col", "area"})
_HEADING = re.compile(r"h[1-6]")


def html_text(page: str) -> tuple[str, tuple[int, ...]]:
    """Text of a page: blocks become paragraphs with a blank line between, headings begin with `#`,
    and `pre` keeps its lines.

    Returns:
        The text, and for each of its lines the 1-based line of the page it begins in.
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    reader.end_page()
    text = "\n\n".join(block for block, _ in reader.blocks)
    lines = [number for _, begun in reader.blocks for number in (*begun, begun[-1])]
    return text, tuple(lines[:-1])


class _Reader(HTMLParser):
    """Collects blocks: (text, for each of its lines the line of the page).

    What is not seen is collected too, until its end tag says so: where that is missing, the page
    would end there.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, tuple[int, ...]]] = []
        self._pieces: list[str] = []
        self._line = 1
        # Each open element that is not seen, and how many blocks there were before it.
        self._unseen: list[tuple[str, int]] = []
        self._heading = ""
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not _INLINE.fullmatch(tag):
            self.end_block()
        if tag in _UNSEEN:
            self.end_block()
            self._unseen.append((tag, len(self.blocks)))
        elif tag in _ENDS_UNSEEN and self._unseen:  # HTML allows a head without an end
            self._drop(0)
        if tag == "pre":
            self._verbatim += 1
        if _HEADING.fullmatch(tag):
            self._heading = "#" * int(tag[1]) + " "

    def handle_endtag(self, tag: str) -> None:
        opened = [name for name, _ in self._unseen]
        if tag in opened:
            self._drop(len(opened) - 1 - opened[::-1].index(tag))
        elif not _INLINE.fullmatch(tag) and tag not in _VOID:
            self.end_block()
        if tag == "pre":
            self._verbatim = max(0, self._verbatim - 1)

    def handle_data(self, data: str) -> None:
        if not self._pieces:
            bare = data.lstrip("\r\n") if self._verbatim else data.lstrip()
            self._line = self.getpos()[0] + data[: len(data) - len(bare)].count("\n")
            data = bare
        if data:
            self._pieces.append(data)

    def end_block(self) -> None:
        """What was read since the last block is a paragraph, or the lines of a `pre`."""
        text = "".join(self._pieces)
        text = text.rstrip() if self._verbatim else " ".join(text.split())
        if text.strip():
            begun = range(self._line, self._line + text.count("\n") + 1)
            self.blocks.append((self._heading + text, tuple(begun)))
        self._pieces, self._heading = [], ""

    def end_page(self) -> None:
        """What is still open and not seen ends here, or was never meant to have an end."""
        self.end_block()
        closing = [n for n, (tag, _) in enumerate(self._unseen) if tag in _TAKES_THE_REST]
        if closing:
            self._drop(closing[0])

    def _drop(self, index: int) -> None:
        """Forget what was collected since an element that is not seen began, and close it."""
        self.end_block()
        del self.blocks[self._unseen[index][1] :]
        del self._unseen[index:]
