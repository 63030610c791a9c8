"""Supervised fine-tuning from rows: the public face of the loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attach import attached
from lorakit.data.contract import Findings
from lorakit.data.meanings import Meaning
from lorakit.data.named_sets import context_of
from lorakit.data.prepare import prepare_meanings, read_and_prepare
from lorakit.data.reading import DataRules, read_meanings
from lorakit.data.split import keep_apart
from lorakit.errors import DataError
from lorakit.recipe import SFTConfig
from lorakit.train.loop import train
from lorakit.train.outcome import TrainOutcome
from lorakit.train.settings import LoopSettings

__all__ = ["TrainOutcome", "train_sft"]

log = logging.getLogger(__name__)


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
        validation: held-out rows like `dataset`, of which those that are trained on are left out;
            None: no validation.
        resume: go on from the newest whole checkpoint in `config.output_dir`.

    Returns:
        How it went; the model has been trained in place.

    Raises:
        AdapterError: the model has no adapter.
        DataError: rows that cannot become examples, a max_length over the model's context, or no
            held-out row that is not trained on.
        InputError, CheckpointError, NonFiniteError, RunError: see `lorakit.train.loop.train`.
    """
    attached(model)
    rules = _rules_of(config, model)
    meanings, prepared = read_and_prepare(dataset, tokenizer, rules)
    held_out = None
    if validation is not None:
        kept = _not_trained_on(read_meanings(validation, rules), meanings)
        held_out = prepare_meanings(kept, tokenizer, rules)
    return train(
        model,
        prepared.examples,
        LoopSettings.from_section(config, packing=config.packing, silence=config.silence),
        repeats=prepared.repeats,
        validation=None if held_out is None else held_out.examples,
        run_dir=None if config.output_dir is None else Path(config.output_dir),
        resume=resume,
    )


def _rules_of(config: SFTConfig, model: PreTrainedModel) -> DataRules:
    context = context_of(model.config)
    if config.max_length is not None and context is not None and config.max_length > context:
        raise DataError(
            f"max_length {config.max_length} is over the model's context of {context} tokens. "
            "Lower max_length, or leave it out to use the whole context."
        )
    return DataRules(
        format=config.format,
        columns=config.columns,
        system=config.system,
        max_length=config.max_length or context,
        context=context,
        too_long=config.too_long,
        max_dropped=config.max_dropped,
        trained=config.trained,
    )


def _not_trained_on(held_out: Sequence[Meaning], train_set: Sequence[Meaning]) -> list[Meaning]:
    kept = keep_apart(held_out, train_set, Findings(), group=None)
    if not kept:
        raise DataError(
            f"validation: all {len(held_out)} rows also occur in the training data; they cannot "
            "show what was learned. Give rows that are not trained on."
        )
    if len(kept) < len(held_out):
        log.warning(
            "validation: %d of %d rows also occur in the training data and are left out",
            len(held_out) - len(kept),
            len(held_out),
        )
    return kept
