"""`output`: where the run goes."""

from __future__ import annotations

from pydantic import Field

from lorakit.recipe.sections.section import Section


class OutputSection(Section):
    """Where the run goes."""

    dir: str = Field("runs/{name}", description="The run folder; {name} is the recipe's file name.")
