"""The linter of recipes and data: rules, one file each in `rules/`, found by listing the folder.

A rule file `some_flaw.py` defines `ID` (`some-flaw`), `SEVERITIES`, `TITLE`, `REASON`, `SOURCE`,
`EXAMPLE`, `MEND` and `find(facts) -> Iterator[Finding]`; its page in docs/rules is made of these.
Severities: `error`, training would be wrong or pointless; `warning`, likely to hurt; `note`, good
to know. A rule that cannot be sure says so by its severity.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import Protocol, cast

from lorakit.data.contract import Finding
from lorakit.data.described import Described
from lorakit.lint import rules as _rules
from lorakit.lint.facts import Facts


class Rule(Described, Protocol):
    """What a file of `rules/` defines."""

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Every flaw of this kind."""


@cache
def rules() -> tuple[Rule, ...]:
    """All rules, sorted by id."""
    names = sorted(module.name for module in pkgutil.iter_modules(_rules.__path__))
    return tuple(cast(Rule, importlib.import_module(f"{_rules.__name__}.{name}")) for name in names)
