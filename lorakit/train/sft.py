"""Supervised fine-tuning from rows: the public face of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attach import attached
from lorakit.data.prepare import DataRules, prepare_examples
from lorakit.recipe import SFTConfig
from lorakit.train.loop import TrainOutcome, train
from lorakit.train.settings import LoopSettings

__all__ = ["TrainOutcome", "train_sft"]


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
    config: SFTConfig,
    *,
    validation: Any = None,
    resume: bool = False,
) -> TrainOutcome:
    """Train the adapter attached to `model` on rows.

    Args:
        model: from `load_base`, with `attach_adapter` done.
        tokenizer: of the model; its chat template renders the rows.
        dataset: list of rows or a datasets.Dataset, or anything `data.train` of a recipe takes.
        config: the loop's options and how rows become examples.
        validation: held-out rows like `dataset`; None: no validation.
        resume: go on from the newest whole checkpoint in `config.output_dir`.

    Returns:
        How it went; the model has been trained in place.

    Raises:
        AdapterError: the model has no adapter.
        DataError: rows that cannot become examples.
        InputError, CheckpointError, NonFiniteError, RunError: see `lorakit.train.loop.train`.
    """
    attached(model)
    rules = DataRules(
        format=config.format,
        columns=config.columns,
        system=config.system,
        max_length=config.max_length or _context_length(model),
        too_long=config.too_long,
        max_dropped=config.max_dropped,
        trained=config.trained,
    )
    prepared = prepare_examples(dataset, tokenizer, rules)
    held_out = None if validation is None else prepare_examples(validation, tokenizer, rules)
    return train(
        model,
        prepared.examples,
        LoopSettings.from_section(config, packing=config.packing),
        repeats=prepared.repeats,
        validation=None if held_out is None else held_out.examples,
        pad_id=tokenizer.pad_token_id or 0,
        run_dir=None if config.output_dir is None else Path(config.output_dir),
        resume=resume,
    )


def _context_length(model: PreTrainedModel) -> int | None:
    """Tokens the model's config says it was made for; recurrent families have no such field."""
    return context_of(model.config)
