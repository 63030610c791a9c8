"""What a recipe calls the model and the data that ship with lorakit.

`builtin` is the model, `builtin:NAME` a data set. A folder of your own that is called the same is
named with its path: `./builtin`.
"""

from __future__ import annotations

MODEL = "builtin"
DATA_PREFIX = "builtin:"


def is_builtin_model(model: str) -> bool:
    """Whether the value of `base.model` means the model that ships with lorakit."""
    return model == MODEL


def is_builtin_data(path: str) -> bool:
    """Whether a data path means a set that ships with lorakit."""
    return path.startswith(DATA_PREFIX)
