"""Tokenized blocks of the corpus, kept on disk: one document after another, each with its end."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save
from transformers import PreTrainedTokenizerBase

from lorakit.builtin import corpus
from lorakit.builtin.document import Document
from lorakit.builtin.tokenizer import CONTEXT
from lorakit.files import write_atomically


@dataclass(frozen=True)
class Batch:
    """Documents in one row.

    Attributes:
        tokens: int64 (T,).
        lengths: tokens of each document; they sum to T.
    """

    tokens: torch.Tensor
    lengths: list[int]

    def positions(self) -> torch.Tensor:
        """(T,) each token's place in its own document."""
        return torch.cat([torch.arange(length) for length in self.lengths])

    def targets(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(T,) next tokens, and (T,) float32 weights that are 0 at the last token of a document."""
        weights = torch.ones(len(self.tokens))
        weights[torch.tensor(self.lengths).cumsum(0) - 1] = 0
        return self.tokens.roll(-1), weights


def encode(document: Document, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a document with its end token, at most `CONTEXT` of them."""
    if document.turns:
        messages = [{"role": role, "content": content} for role, content in document.turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    else:
        text = document.text + tokenizer.eos_token
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids[:CONTEXT]


def batches(documents: list[list[int]], batch_tokens: int) -> list[Batch]:
    """Consecutive documents until a batch has `batch_tokens` or more; the last may be smaller."""
    made, pending = [], []
    for ids in documents:
        pending.append(ids)
        if sum(map(len, pending)) >= batch_tokens:
            made.append(_batch(pending))
            pending = []
    return [*made, _batch(pending)] if pending else made


def _batch(documents: list[list[int]]) -> Batch:
    tokens = torch.tensor([token for ids in documents for token in ids])
    return Batch(tokens, [len(ids) for ids in documents])


def prepare_blocks(
    folder: Path,
    phase: str,
    shared: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    num_blocks: int,
    block_tokens: int,
) -> None:
    """Write the first `num_blocks` blocks of a phase, unless they are already there."""
    paths = [_path(folder, phase, number) for number in range(num_blocks)]
    if all(path.is_file() for path in paths):
        return
    folder.mkdir(parents=True, exist_ok=True)
    encoded: dict[Document, list[int]] = {}

    def count_tokens(document: Document) -> int:
        if document not in encoded:
            encoded[document] = encode(document, tokenizer)
        return len(encoded[document])

    blocks = corpus.phase_blocks(
        phase, shared, seed=seed, block_tokens=block_tokens, count_tokens=count_tokens
    )
    for path, block in zip(paths, islice(blocks, num_blocks), strict=True):
        ids = [encoded[document] for document in block]
        tensors: dict[str, np.ndarray] = {
            "tokens": np.array([token for document in ids for token in document], np.uint16),
            "lengths": np.array([len(document) for document in ids], np.int32),
        }
        write_atomically(path, save(tensors))


def read_block(folder: Path, phase: str, number: int) -> list[list[int]]:
    """The documents' token ids of one prepared block."""
    tensors = load_file(_path(folder, phase, number))
    ends = tensors["lengths"].cumsum()
    return [part.tolist() for part in np.split(tensors["tokens"].astype(np.int64), ends[:-1])]


def _path(folder: Path, phase: str, number: int) -> Path:
    return folder / f"{phase}-{number:03}.safetensors"
