"""HTML left over in the text."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "html-left-over"
SEVERITIES = ("warning", "note")
TITLE = "HTML left over in the text"
REASON = (
    "Entities such as &amp;nbsp; and tags such as &lt;br&gt; in prose come from scraped "
    "pages; the model learns to write them. A warning from 2 % of the answers on where the "
    "other answers have none; a set that teaches to write HTML has them in most. In questions it "
    "is a note, from 2 % on: the model learns to answer what nobody will type."
)
SOURCE = "practice"
EXAMPLE = '{"prompt": "...", "completion": "Take it daily.&nbsp;<br>Do not ..."}'
MEND = "Convert to text (html.unescape, a HTML-to-text library)."

MIN_SHARE, MEANT_SHARE = 0.02, 0.5
_LEFT_OVER = regex.compile(
    r"&(?:nbsp|amp|quot|lt|gt|rsquo|lsquo|ldquo|rdquo|ndash|mdash|hellip|#\d{2,5}|#x[0-9a-f]{2,5});|"
    r"</?(?:br|p|div|span|font|td|tr|table|li|ul|strong|em|b|i|a)(?:\s[^<>]{0,200})?/?>",
    regex.I,
)
_CODE = regex.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", regex.S)
# Whoever asks for markup gets it.
_ABOUT_MARKUP = regex.compile(
    r"\b(?:html|xml|css|tags?|web ?page|website|markup|jsx|svg|entit)", regex.I
)


def find(facts: Facts) -> Iterator[Finding]:
    hits, asked = Hits(facts.train), Hits(facts.train)
    for row in facts.train:
        match = next(
            filter(None, (_LEFT_OVER.search(_CODE.sub("", text)) for text in row.trained_texts)),
            None,
        )
        if match and not _ABOUT_MARKUP.search(row.prompt):
            hits.add(row, match[0])
        elif not match and not row.is_plain and not _ABOUT_MARKUP.search(row.prompt):
            match = _LEFT_OVER.search(_CODE.sub("", row.question))
            if match:
                asked.add(row, match[0])
    if asked.share >= MIN_SHARE:
        yield asked.finding(
            ID,
            "note",
            "ask with left-over HTML",
            "convert it to plain text, unless whoever asks the model will write so too",
        )
    if hits.count:
        severity = "warning" if MIN_SHARE <= hits.share < MEANT_SHARE else "note"
        yield hits.finding(
            ID,
            severity,  # type: ignore[arg-type]
            "train text with left-over HTML",
            "convert it to plain text",
        )
