"""The small base model and the instruction data that ship with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from lorakit.errors import DataError
from lorakit.recipe.builtin_names import DATA_PREFIX


def model_folder() -> Path:
    """The folder of the built-in base model: config, weights, tokenizer and model card."""
    return Path(__file__).parent / "model"


def data_folder() -> Path:
    """The folder of the built-in data: `<set>.jsonl` of every set, and their data card."""
    return Path(__file__).parent / "data"


def data_names() -> list[str]:
    """The built-in data sets, as recipes name them: `builtin:train`, ..."""
    return sorted(f"{DATA_PREFIX}{path.stem}" for path in data_folder().glob("*.jsonl"))


def data_file(name: str) -> Path:
    """The file of a built-in data set.

    Args:
        name: as in a recipe: `builtin:train`.

    Raises:
        DataError: there is no such set.
    """
    names = data_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {near[0]}?" if near else "Choose one of them, or name a file."
        raise DataError(
            f"{name!r} is no built-in data set; possible: {', '.join(names) or 'none'}. {hint}"
        )
    return data_folder() / f"{name.removeprefix(DATA_PREFIX)}.jsonl"
