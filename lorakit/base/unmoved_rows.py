"""Rows of an embedding that look as they were made, not as training leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lorakit.base.checkpoint import lazy_tensors, read_entries

# transformers' names of the input embedding, and those of the older models.
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
# Rows of other tokens to compare with, in so many pieces of the table.
NUM_COMPARED, NUM_PIECES = 2_048, 8
# Of the usual distance from the mean row. Growing a table with transformers puts new rows within a
# millionth of it (mean_resizing); a mean of 2,048 rows is 1 / sqrt(2,048) = 2 % off by itself.
NEAR_MEAN = 0.2


def unmoved_rows(folder: Path, token_ids: Sequence[int]) -> list[int]:
    """Those of some tokens whose rows are zero, or lie at the mean of all rows.

    That is where a table that was grown for new tokens puts their rows; training moves them away.
    Rows that were drawn at random are not told from trained ones.

    Args:
        folder: of the model; only the rows that are compared are read.
        token_ids: to look at.

    Returns:
        Sorted; none where the weights have no input embedding of a usual name.

    Raises:
        ModelError: no weights in the folder, or broken ones.
    """
    entries = read_entries(folder)
    names = [
        name
        for name, entry in entries.items()
        if name.removesuffix(".weight").endswith(EMBEDDINGS) and len(entry.shape) == 2
    ]
    if len(names) != 1:
        return []
    entry = entries[names[0]]
    looked_at = sorted({int(token) for token in token_ids if token < entry.shape[0]})
    with lazy_tensors({names[0]: entry}, lambda: None) as tensors:
        table = tensors[names[0]]
        rows_ND = [table[token : token + 1].double() for token in looked_at]
        length = max(1, min(entry.shape[0], NUM_COMPARED) // NUM_PIECES)
        starts = torch.linspace(0, entry.shape[0] - length, NUM_PIECES).long().tolist()
        others_MD = torch.cat([table[start : start + length] for start in starts]).double()
    mean_D = others_MD.mean(dim=0)
    usual = (others_MD - mean_D).norm(dim=1).median()
    return [
        token
        for token, row_1D in zip(looked_at, rows_ND, strict=True)
        if not row_1D.any() or (row_1D - mean_D).norm() < NEAR_MEAN * usual
    ]
