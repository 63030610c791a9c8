"""A case: a recipe with its files, and what is wrong with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Case:
    """`flaw` says in plain words what is wrong; None: nothing is."""

    name: str
    flaw: str | None
    recipe: dict[str, Any]
    files: dict[str, str | bytes] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write everything into folder/name; the path of the recipe."""
        recipe = yaml.safe_dump(self.recipe, sort_keys=False)
        for name, content in {**self.files, "recipe.yaml": recipe}.items():
            path = folder / self.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path
