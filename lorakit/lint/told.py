"""Counting rows with a flaw, and saying how many there are and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lorakit.data.contract import EXAMPLES_SHOWN, Finding, Severity
from lorakit.lint.row_texts import RowText, Sample

MAX_SHOWN = 60  # characters of a row's text in a message
MAX_DIFFERING = 25  # of each of two, from where they differ


class Hits:
    """Rows of a sample that have a flaw.

    Args:
        sample: the rows that were looked at.
        looked_at: how many of them the flaw was possible in; None: all.
    """

    def __init__(self, sample: Sample, looked_at: int | None = None) -> None:
        self._sample = sample
        self.looked_at = len(sample) if looked_at is None else looked_at
        self.count = 0
        self._places: list[str] = []
        self._first = ""

    def add(self, row: RowText, detail: str = "") -> None:
        """Count one row; the detail of the first is shown."""
        self.count += 1
        if len(self._places) < EXAMPLES_SHOWN:
            self._places.append(row.where)
        self._first = self._first or detail

    @property
    def share(self) -> float:
        """Of the rows looked at."""
        return self.count / self.looked_at if self.looked_at else 0.0

    def finding(self, rule_id: str, severity: Severity, what: str, do: str) -> Finding:
        """`train: 12 of 2,000 rows WHAT (first: ...); DO`."""
        first = f" (the first: {quoted(self._first)})" if self._first else ""
        message = f"{self._sample.name}: {self.amount()} {what}{first}; {do}"
        return Finding(rule_id, severity, message, self.where)

    def amount(self) -> str:
        """`12 of 2,000 rows`, and that only some were read where that is so."""
        return f"{self.count:,} of {rows_read(self._sample, self.looked_at)}"

    @property
    def where(self) -> str:
        """The first places, and how many more."""
        return places(self._places, self.count)


def rows_read(sample: Sample, looked_at: int | None = None) -> str:
    """`2,000 rows`, or `30,000 rows read (a sample of 1,000,000)`."""
    count = len(sample) if looked_at is None else looked_at
    rows = f"{count:,} {'row' if count == 1 else 'rows'}"
    return rows if sample.is_whole else f"{rows} read (a sample of {sample.total:,})"


def places(first: Iterable[str], count: int) -> str:
    """`a.jsonl:1, a.jsonl:7 and 12 more`."""
    shown = list(first)
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


def listed_kinds(counts: Mapping[str, int], at_most: int | None = None) -> str:
    """`mail address, phone number`: the commonest first, those of equal counts by name, so that a
    message is the same in every run."""
    kinds = sorted(counts, key=lambda kind: (-counts[kind], kind))
    return ", ".join(kinds[:at_most])


def where_they_differ(one: str, other: str) -> str:
    """`…5 mg a day / …50 mg a day`: two texts from the word on in which they differ."""
    texts = [" ".join(text.split()) for text in (one, other)]
    # Where a text is the beginning of the other its last word is shown all the same.
    pairs = enumerate(zip(*texts, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), max(0, min(map(len, texts)) - 1))
    start = texts[0].rfind(" ", 0, shared) + 1
    if shared - start >= MAX_DIFFERING // 2:  # no spaces are written, or a long path
        start = shared
    lead = "…" if start else ""
    return " / ".join(f"{lead}{text[start : start + MAX_DIFFERING]}" for text in texts)


def quoted(text: str) -> str:
    """A short piece of text in quotes, on one line."""
    squeezed = " ".join(text.split())
    cut = squeezed if len(squeezed) <= MAX_SHOWN else squeezed[: MAX_SHOWN - 1] + "…"
    return repr(cut)
