"""What must be right before a run writes its first file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from lorakit.data.examples import ExampleSet
from lorakit.errors import DataError, ModelError
from lorakit.train.batches import check_trainable


def check_sets(model: PreTrainedModel, sets: Mapping[str, ExampleSet | None]) -> None:
    """Refuse a base that cannot train, and sets that it cannot train on.

    Args:
        model: the base model, with or without an adapter.
        sets: {name for messages: examples, or None where there is no such set}.

    Raises:
        ModelError: the base computes in float16.
        DataError: an empty set, an example that trains nothing, or a token id without a row in the
            model's embedding.
    """
    check_dtype(model)
    for name, examples in sets.items():
        if examples is not None:
            check_trainable(examples)
            check_vocabulary(model, examples, name)


def check_dtype(model: PreTrainedModel) -> None:
    """Refuse float16, whose gradients under- and overflow; there is no loss scaling here.

    Raises:
        ModelError: naming what trains.
    """
    if _embedding(model).dtype == torch.float16:
        raise ModelError(
            "the base model computes in float16, in which gradients vanish or overflow; training "
            "is possible in bfloat16 and float32. Set base.dtype to one of them."
        )


def check_vocabulary(model: PreTrainedModel, examples: ExampleSet, name: str) -> None:
    """Refuse token ids that the model has no embedding for.

    Raises:
        DataError: naming the largest id, its example and the number of rows.
    """
    num_rows = _embedding(model).shape[0]
    largest, where = max((int(examples[i].input_ids.max()), i) for i in range(len(examples)))
    if largest >= num_rows:
        raise DataError(
            f"{name}: example {where} has token id {largest}, but the model's embedding has "
            f"{num_rows} rows (ids 0 to {num_rows - 1}). Use the tokenizer that belongs to the "
            "model, or resize the model's embedding to the tokenizer first."
        )


def _embedding(model: PreTrainedModel) -> torch.Tensor:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight
