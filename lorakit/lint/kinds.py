"""Every kind of finding there is, whoever makes it: rules, watchers, the data contract.

A rule (`rules/`) and a watcher (`lorakit/train/watchers`) describe themselves in their file, the
findings of the data contract and of evaluation are described in `contract_pages.py`. What is said
of a kind, on its page in docs/rules and on the pages of `check` and of runs, is read off here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from lorakit.data.described import Described
from lorakit.lint import rules
from lorakit.lint.contract_pages import PAGES
from lorakit.train.watch import watchers

FoundBy = Literal["rule", "watcher", "contract"]


@dataclass(frozen=True)
class Kind:
    """What findings of one id have in common.

    Attributes:
        id: by which a recipe silences them.
        found_by: `contract` stands for evaluation too.
        severities: theirs, the worst first.
        title: what it is, in a few words.
        reason: why it matters.
        source: where that is from.
        mend: what to do.
        example: of a recipe, of data or of metrics that have it; empty: its message names rows.
        can_be_silenced: false where nothing is left to train on.
    """

    id: str
    found_by: FoundBy
    severities: tuple[str, ...]
    title: str
    reason: str
    source: str
    mend: str
    example: str = ""
    can_be_silenced: bool = True


@cache
def kinds() -> dict[str, Kind]:
    """{id: kind}, sorted."""
    contract = (
        Kind(
            name,
            "contract",
            (page.severity,),
            page.title,
            page.reason,
            page.source,
            page.mend,
            can_be_silenced=page.can_be_silenced,
        )
        for name, page in PAGES.items()
    )
    described = (
        *(_described(one, "rule") for one in rules()),
        *(_described(one, "watcher") for one in watchers()),
        *contract,
    )
    return {one.id: one for one in sorted(described, key=lambda one: one.id)}


def _described(one: Described, found_by: FoundBy) -> Kind:
    return Kind(
        one.ID, found_by, one.SEVERITIES, one.TITLE, one.REASON, one.SOURCE, one.MEND, one.EXAMPLE
    )
