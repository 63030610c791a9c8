"""Text in the wrong encoding."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.lint.told import Hits

ID = "mojibake"
SEVERITIES = ("warning", "note")
TITLE = "Text in the wrong encoding"
REASON = (
    "`Ã©` for `é`, `â€™` for an apostrophe or the replacement character mean that a file was "
    "read in another encoding than it was written in. The model learns to write it so."
)
SOURCE = "practice; ftfy's documentation of common damage"
EXAMPLE = '{"prompt": "...", "completion": "The patientâ€™s cafÃ© ..."}'
MEND = "Read the original file as UTF-8, or repair the text with ftfy."

MIN_SHARE = 0.005
# UTF-8 read as Windows-1252 or Latin-1: a lead byte with a continuation byte; U+FFFD itself.
_DAMAGE = regex.compile(
    "\u00e2\u20ac[\u2122\u0153\u02dc\u201c\u201d\u2014\u00a6\u00a2\u0080-\u009f]|"
    "\u00e2\u0080[\u0080-\u00bf]|\u00c3[\u0080-\u00bf\u0192\u201a\u00a9\u00a8\u00bc\u00b6\u00a4\u00b1]|"
    "\u00c2[\u00a0\u00a3\u00a7\u00a9\u00ae\u00b0\u00b1\u00b5\u00b7\u00bd]|\ufffd"
)


def find(facts: Facts) -> Iterator[Finding]:
    hits = Hits(facts.train)
    for row in facts.train:
        match = _DAMAGE.search(row.text)
        if match:
            hits.add(row, row.text[max(0, match.start() - 15) : match.end() + 15])
    if hits.count:
        severity = "warning" if hits.share >= MIN_SHARE else "note"
        yield hits.finding(
            ID,
            severity,  # type: ignore[arg-type]
            "have text that was read in the wrong encoding",
            "read the original as UTF-8, or repair it with ftfy",
        )
