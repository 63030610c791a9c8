"""The data contract: what is checked on every row, and how a breach is told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

EXAMPLES_SHOWN = 3
_FOR_ONE_OR_SEVERAL = re.compile(r"\[([^|\]]*)\|([^|\]]*)\]")
# One of `a.jsonl:1, a.jsonl:7 and 12 more`.
_ROW = re.compile(r"(?P<file>\S.*?):(?P<row>\d+)(?:, | and [\d,]+ more\Z|\Z)")
_STEP = re.compile(r"step (?P<step>\d+)")


@dataclass(frozen=True)
class Finding:
    """One thing a reader of the data should know.

    Attributes:
        id: stable name, such as `rows-too-long`; the keys of `FINDINGS`.
        severity: `error` stops a run, `warning` should be read, `note` is for the record.
        message: what was found, in how many rows, and what to do.
        where: the first places, such as `train.jsonl:17`; of what is seen while training `step 60`.
    """

    id: str
    severity: Severity
    message: str
    where: str

    @property
    def places(self) -> list[dict[str, str | int]]:
        """`where` for programs: `{"file", "row"}` of each row it names, `{"key"}` of a key of the
        recipe, `{"step"}` of a step of a run."""
        step = _STEP.fullmatch(self.where)
        if step:
            return [{"step": int(step["step"])}]
        rows: list[dict[str, str | int]] = [
            {"file": found["file"], "row": int(found["row"])} for found in _ROW.finditer(self.where)
        ]
        if rows or not self.where:
            return rows
        return [{"key": self.where}]

    def in_words(self) -> str:
        """`warning: MESSAGE (train.jsonl:17) [rows-too-long]`."""
        where = f" ({self.where})" if self.where else ""
        return f"{self.severity}: {self.message}{where} [{self.id}]"

    def to_json(self) -> dict[str, Any]:
        """The shape of a finding in every file and output."""
        return vars(self) | {"places": self.places}


# id -> (severity, what it means and what to do); of [one|several] what fits the count is told.
FINDINGS: dict[str, tuple[Severity, str]] = {
    "rows-too-long": (
        "warning",
        "rows [is|are] longer than max_length and [was|were] left out whole; raise max_length "
        "or split [it|them]",
    ),
    "no-trained-token": (
        "warning",
        "rows [has|have] no trained token and [was|were] left out; check `trained` and the "
        "weights of [its|their] messages",
    ),
    "template-refused": (
        "warning",
        "rows [does|do] not fit the chat template and [was|were] left out; fix [it|them] or give "
        "another chat_template",
    ),
    "prefix-mismatch": (
        "warning",
        "rows whose text before a trained turn differs from what the model is given when it is "
        "asked to answer; the model is trained on another prompt than it will see",
    ),
    "content-dropped": (
        "warning",
        "rows with text that the chat template leaves out; the model never sees it",
    ),
    "tools-dropped": (
        "warning",
        "rows with tools that the chat template does not show to the model",
    ),
    "thinking-dropped": (
        "warning",
        "rows whose thinking the chat template leaves out (most templates keep it in the last "
        "turn only); train those turns as rows of their own to keep it",
    ),
    "thinking-doubled": (
        "warning",
        "rows with <think> tags in the content of a turn to which the chat template adds its own; "
        "move the thinking to reasoning_content",
    ),
    "whitespace-trimmed": (
        "note",
        "rows whose leading or trailing white space the chat template trims",
    ),
    "stop-in-next-message": (
        "note",
        "rows where a turn ends only with the header token of the next message; that token is "
        "trained as the stop token and must be in the generation config's eos_token_id",
    ),
    "stop-differs": (
        "warning",
        "rows where earlier turns end with another token than the last one; with trained: "
        "completion only the last turn's is learned",
    ),
    "stop-added": (
        "note",
        "rows whose {% generation %} markers leave out the stop token; it is trained all the same",
    ),
    "marker-starts-elsewhere": (
        "note",
        "rows whose {% generation %} markers begin before or after the end of the generation "
        "prompt; the markers were followed",
    ),
    "system-folded": (
        "note",
        "rows with a system message that the chat template refuses; it was put before the first "
        "user message, and must be put there when the model is served",
    ),
    "turn-not-marked": (
        "note",
        "rows with assistant turns that the template's {% generation %} markers leave out; not "
        "trained",
    ),
    "special-token-in-text": (
        "note",
        "rows whose text spells a special token; it was encoded as text, so [its|their] ids "
        "differ from apply_chat_template's on purpose",
    ),
    "template-uses-date": (
        "note",
        "the chat template writes today's date; the tokens are kept as they were made",
    ),
    "duplicate-rows": (
        "note",
        "rows [repeats|repeat] an earlier row of the same set word for word; [it was|they "
        "were] kept",
    ),
    "groups-shared-with-train": (
        "warning",
        "rows [has|have] a group that also occurs in the training data; the held-out figure may "
        "flatter",
    ),
    "rows-shared-with-train": (
        "warning",
        "rows also [occurs|occur] in the training data and [was|were] left out of the held-out set",
    ),
    "rows-shared-with-validation": (
        "warning",
        "rows also [occurs|occur] in the validation set, which decides when to stop, and "
        "[was|were] left out",
    ),
    "topics-held-out": ("note", "topics are held out of training and validation"),
    "rows-of-held-out-topics": (
        "warning",
        "rows [is|are] about topics that data.hold_out_topics holds out and [was|were] left out",
    ),
    "prompts-not-varied": (
        "note",
        "rows [has|have] nothing in [its|their] prompts that the variant could change; [it "
        "stands|they stand] as before",
    ),
    "in-domain-decides-when-to-stop": (
        "warning",
        "the in_domain figure is measured on the validation set, which also decides when to stop, "
        "so it flatters; name a set of its own as evaluate.in_domain",
    ),
}


def too_long_meaning(max_length: int, context: int | None) -> str:
    """`rows-too-long` with its limit, and whether the base can go beyond.

    Args:
        max_length: tokens an example may have.
        context: of the base; None: no limit is known.
    """
    limit, remedy = "as given", "raise max_length or split [the row|the rows]"
    if context is not None and max_length >= context:
        limit = "the base's context"
        remedy = "the base cannot go beyond: split [the row|the rows], or choose another base"
    elif context is not None:
        remedy = f"raise max_length (the base's context is {context}) or split [the row|the rows]"
    return (
        f"rows [is|are] longer than max_length {max_length} ({limit}) and [was|were] left out "
        f"whole; {remedy}"
    )


class Findings:
    """Counts breaches by id while rows go by, and tells them once at the end."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}
        self._details: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._meanings: dict[str, str] = {}

    def add(self, finding_id: str, where: str, detail: str = "") -> None:
        """Count one row; the detail of the first is shown as the example."""
        if finding_id not in FINDINGS:
            raise KeyError(finding_id)
        self._counts[finding_id] = self._counts.get(finding_id, 0) + 1
        places = self._places.setdefault(finding_id, [])
        if len(places) < EXAMPLES_SHOWN:
            places.append(where)
        if detail:
            self._details.setdefault(finding_id, detail)

    def explain(self, finding_id: str, meaning: str) -> None:
        """Say what an id of `FINDINGS` means in words that know more, such as a limit."""
        if finding_id not in FINDINGS:
            raise KeyError(finding_id)
        self._meanings[finding_id] = meaning

    def count(self, finding_id: str) -> int:
        """Rows counted under this id."""
        return self._counts.get(finding_id, 0)

    def detail(self, finding_id: str) -> str:
        """The detail of the first row counted under this id."""
        return self._details.get(finding_id, "")

    def collected(self) -> list[Finding]:
        """One finding per id, errors first, in a fixed order."""
        return sorted(
            (self._finding(finding_id) for finding_id in self._counts),
            key=lambda finding: (("error", "warning", "note").index(finding.severity), finding.id),
        )

    def _finding(self, finding_id: str) -> Finding:
        severity, meaning = FINDINGS[finding_id]
        count, detail = self._counts[finding_id], self._details.get(finding_id, "")
        meaning = self._meanings.get(finding_id, meaning)
        rows = meaning.startswith("rows")
        if rows and count == 1:
            meaning = f"row{meaning.removeprefix('rows')}"
        meaning = _FOR_ONE_OR_SEVERAL.sub(r"\1" if count == 1 else r"\2", meaning)
        message = f"{count} {meaning}" if rows else meaning
        if detail:
            message = f"{message}. First: {detail}" if rows else f"{message} ({detail})"
        return Finding(finding_id, severity, message, _places(self._places[finding_id], count))


def _places(first: Iterable[str], count: int) -> str:
    shown = [place for place in first if place]
    more = count - len(shown)
    return ", ".join(shown) + (f" and {more} more" if shown and more > 0 else "")
