"""The pages of docs/rules, made of what rules say of themselves.

python -m lorakit.lint.pages docs/rules
"""

from __future__ import annotations

import sys
from pathlib import Path

from lorakit.files import write_atomically
from lorakit.lint import Rule, rules
from lorakit.lint.contract_pages import PAGES, Page

MEANINGS = {
    "error": "training would be wrong or pointless, and does not start",
    "warning": "likely to hurt",
    "note": "good to know",
}
HEAD = """\
<!-- Made by: python -m lorakit.lint.pages docs/rules -->
# Rules of `lorakit check`

What `lorakit check` and `lorakit train` say about a recipe and its data before anything is trained.
An error stops training; a warning is likely to hurt; a note is good to know. Of a set of over
30,000 rows (or 100 million characters) rules that read text read an evenly spread part; the finding
says so. A rule that is wrong about your data is silenced by its id, and counted instead:

```yaml
check:
  silence: [near-duplicates]
```

How the rules fared on real data: [real_data.md](real_data.md). A new rule is a file in
`lorakit/lint/rules/`; a flawed case in `tests/lint/corpus/flawed.py` and these pages
(`python -m lorakit.lint.pages docs/rules`) are what the tests then ask for.

"""


def pages() -> dict[str, str]:
    """{file name: text} of every page, and of their index."""
    made = {f"{rule.ID}.md": page_of_rule(rule) for rule in rules()}
    made |= {f"{name}.md": page_of_contract(name) for name in PAGES}
    return dict(sorted(made.items())) | {"README.md": _index()}


def page_of_rule(rule: Rule) -> str:
    """Reason, source, example, what to do, how to silence."""
    kind = "yaml" if ": " in rule.EXAMPLE and not rule.EXAMPLE.startswith("{") else "text"
    example = f"## Example\n\n```{kind}\n{rule.EXAMPLE}\n```\n\n"
    return _page(rule.ID, rule.TITLE, rule.SEVERITIES, rule.REASON, rule.SOURCE, example, rule.MEND)


def page_of_contract(name: str) -> str:
    """The same of a finding of the data contract; its example is the row that the message names."""
    page = PAGES[name]
    return _page(
        name,
        page.title,
        (page.severity,),
        page.reason,
        page.source,
        "",
        page.mend,
        can_be_silenced=page.can_be_silenced,
    )


def _page(
    name: str,
    title: str,
    severities: tuple[str, ...],
    reason: str,
    source: str,
    example: str,
    mend: str,
    *,
    can_be_silenced: bool = True,
) -> str:
    kinds = "; ".join(f"**{one}**: {MEANINGS[one]}" for one in severities)
    silence = (
        f"```yaml\ncheck:\n  silence: [{name}]\n```\n"
        if can_be_silenced
        else "It cannot be silenced: there is nothing to train on.\n"
    )
    return (
        f"# {name}: {_inside_a_line(title)}\n\n{kinds}.\n\n## Why\n\n{reason}\n\n"
        f"Source: {source}.\n\n{example}## What to do\n\n{mend}\n\n## How to silence "
        f"it\n\n{silence}"
    )


def _inside_a_line(title: str) -> str:
    """The title with a small first letter, but for an abbreviation such as HTML."""
    return title if title[1:2].isupper() else f"{title[0].lower()}{title[1:]}"


def _index() -> str:
    lines = [
        f"| [{rule.ID}]({rule.ID}.md) | {', '.join(rule.SEVERITIES)} | {rule.TITLE} |"
        for rule in rules()
    ]
    contract = [_line(name, page) for name, page in sorted(PAGES.items())]
    table = "| id | severity | what |\n|---|---|---|\n"
    return (
        HEAD
        + table
        + "\n".join(lines)
        + "\n\n## Of the data contract and of evaluation\n\n"
        + table
        + "\n".join(contract)
        + "\n"
    )


def _line(name: str, page: Page) -> str:
    return f"| [{name}]({name}.md) | {page.severity} | {page.title} |"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, text in pages().items():
        write_atomically(folder / file_name, text.encode())
