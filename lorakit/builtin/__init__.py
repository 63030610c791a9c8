"""The small base model and the instruction data that ship with the package."""

from __future__ import annotations

from pathlib import Path


def model_folder() -> Path:
    """The folder of the built-in base model: config, weights, tokenizer and model card."""
    return Path(__file__).parent / "model"


def data_folder() -> Path:
    """The folder of the built-in data: `<set>.jsonl` of four sets, and their data card."""
    return Path(__file__).parent / "data"
