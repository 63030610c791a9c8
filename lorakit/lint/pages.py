"""The pages of docs/rules, made of what rules say of themselves.

python -m lorakit.lint.pages docs/rules
"""

from __future__ import annotations

import sys
from pathlib import Path

from lorakit.files import write_atomically
from lorakit.lint.kinds import FoundBy, Kind, kinds

MEANINGS = {
    "error": "training would be wrong or pointless, and does not start",
    "warning": "likely to hurt",
    "note": "good to know",
}
HEAD = """\
<!-- Made by: python -m lorakit.lint.pages docs/rules -->
# Rules of `lorakit check` and `lorakit train`

What `lorakit check` and `lorakit train` say about a recipe and its data before anything is trained,
and what `lorakit train` says of a run while it trains. An error stops training; a warning is likely
to hurt; a note is good to know. Of a set of over
30,000 rows (or 100 million characters) rules that read text read an evenly spread part; the finding
says so. A rule that is wrong about your data is silenced by its id, and counted instead:

```yaml
check:
  silence: [near-duplicates]
```

How the rules fared on real data: [real_data.md](real_data.md). A new rule is a file in
`lorakit/lint/rules/`, with a flawed case in `tests/lint/corpus/flawed.py`; what is seen while
training is a file in `lorakit/train/watchers/`, with runs that have it in
`tests/train/watched_lines.py`. These pages (`python -m lorakit.lint.pages docs/rules`) are what the
tests then ask for.

"""

HEADINGS: dict[FoundBy, str] = {
    "rule": "",
    "watcher": "\n## Seen while training\n\nThey stand in the line of `metrics.jsonl` that shows "
    "them (`findings`), in the log and in the report, each once in a run.\n\n",
    "contract": "\n## Of the data contract and of evaluation\n\n",
}
TABLE = "| id | severity | what |\n|---|---|---|\n"


def pages() -> dict[str, str]:
    """{file name: text} of every page, and of their index."""
    return {f"{name}.md": page_of(kind) for name, kind in kinds().items()} | {"README.md": _index()}


def page_of(kind: Kind) -> str:
    """Reason, source, example, what to do, how to silence."""
    severities = "; ".join(f"**{one}**: {MEANINGS[one]}" for one in kind.severities)
    silence = (
        f"```yaml\ncheck:\n  silence: [{kind.id}]\n```\n"
        if kind.can_be_silenced
        else "It cannot be silenced: there is nothing to train on.\n"
    )
    return (
        f"# {kind.id}: {_inside_a_line(kind.title)}\n\n{severities}.\n\n## Why\n\n{kind.reason}\n\n"
        f"Source: {kind.source}.\n\n{_example(kind)}## What to do\n\n{kind.mend}\n\n"
        f"## How to silence it\n\n{silence}"
    )


def _example(kind: Kind) -> str:
    """Empty where the message names a row."""
    if not kind.example:
        return ""
    is_yaml = ": " in kind.example and not kind.example.startswith("{")
    return f"## Example\n\n```{'yaml' if is_yaml else 'text'}\n{kind.example}\n```\n\n"


def _inside_a_line(title: str) -> str:
    """The title with a small first letter, but for an abbreviation such as HTML."""
    return title if title[1:2].isupper() else f"{title[0].lower()}{title[1:]}"


def _index() -> str:
    tables = (heading + TABLE + _lines(found_by) for found_by, heading in HEADINGS.items())
    return HEAD + "".join(tables)


def _lines(found_by: FoundBy) -> str:
    return "".join(
        f"| [{one.id}]({one.id}.md) | {', '.join(one.severities)} | {one.title} |\n"
        for one in kinds().values()
        if one.found_by == found_by
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, text in pages().items():
        write_atomically(folder / file_name, text.encode())
