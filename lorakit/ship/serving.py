"""A finished run as a model that answers: base, adapter, and the tokenizer and stops it was trained
with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.store import load_adapter
from lorakit.base.from_recipe import load_base_of
from lorakit.base.load import load_generation_config
from lorakit.base.of_run import base_of_run
from lorakit.base.tokenizer import load_tokenizer
from lorakit.recipe import Recipe
from lorakit.run_folder import RunFolder, dtype_of, finished_run


@dataclass(frozen=True)
class ServedRun:
    """A run that is loaded.

    Attributes:
        run: its folder.
        recipe: as resolved.
        model: with the run's adapter attached, and the tokens to stop at in its generation config.
        tokenizer: with the chat template that was trained with.
    """

    run: RunFolder
    recipe: Recipe
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_run(path: str | Path) -> ServedRun:
    """Load what a run trained, computing in the dtype it was trained in.

    Raises:
        InputError: no run folder, or its base is gone or has become another one.
        RunError: the run has not finished.
    """
    run, recipe = finished_run(Path(path))
    model, _ = load_base_of(base_of_run(run, recipe), dtype=getattr(torch, dtype_of(run)))
    load_adapter(model, run.adapter)
    load_generation_config(model, run.tokenizer)
    return ServedRun(run, recipe, model, load_tokenizer(run.tokenizer, model.config))
