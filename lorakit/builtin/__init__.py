"""The small base model that ships with the package."""

from __future__ import annotations

from pathlib import Path


def model_folder() -> Path:
    """The folder of the built-in base model: config, weights, tokenizer and model card."""
    return Path(__file__).parent / "model"
