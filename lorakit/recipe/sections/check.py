"""`check`: what the linter keeps to itself."""

from __future__ import annotations

from pydantic import Field

from lorakit.recipe.sections.section import Section


class CheckSection(Section):
    """What the linter keeps to itself."""

    silence: list[str] = Field(
        default_factory=list,
        description="Ids of findings (docs/rules), also of what is seen while training, that are "
        "counted instead of told.",
    )
