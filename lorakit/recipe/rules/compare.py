"""What `compare` may not say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorakit.recipe.rules.fault import Fault, is_given, no_effect

if TYPE_CHECKING:
    from lorakit.recipe.sections.recipe import Recipe

RETRIEVAL_OPTIONS = ("text_column", "chunk_characters", "overlap_characters", "top_k", "prompt")


def compare_rules(recipe: Recipe) -> Iterator[Fault]:
    """The rules of the compare section."""
    compare = recipe.compare
    for name in ("documents", "prices", "api", "text_column"):
        given = getattr(compare, name)
        if given is not None and not given.strip():
            yield Fault(("compare", name), "is empty; give it, or leave it out")
    if compare.documents is None:
        for name in RETRIEVAL_OPTIONS:
            if is_given(compare, name):
                yield no_effect(("compare", name), "compare.documents is not set", "set it")
    elif compare.overlap_characters > compare.chunk_characters // 2:
        yield Fault(
            ("compare", "overlap_characters"),
            f"{compare.overlap_characters} is over half of compare.chunk_characters "
            f"{compare.chunk_characters}; possible: 0 to {compare.chunk_characters // 2}",
        )
