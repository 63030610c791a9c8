"""What the data room hands on: examples (token ids with a loss weight each) and micro-batches.

Shapes: T tokens of one example, N trained positions of a micro-batch, S examples in a micro-batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch


@dataclass(frozen=True)
class Example:
    """One tokenized row.

    Attributes:
        input_ids: int32 (T,), the ids the model will see when served.
        loss_weights: float32 (T,), the weight with which *predicting* token t enters the loss;
            0 means not trained. `loss_weights[0]` is always 0: nothing predicts the first token.
    """

    input_ids: np.ndarray
    loss_weights: np.ndarray

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @cached_property
    def num_trained_tokens(self) -> int:
        return int(np.count_nonzero(self.loss_weights))


class ExampleSet(Protocol):
    """A random-access, immutable set of examples: a list in memory or a store on disk."""

    lengths: np.ndarray  # int64 (number of examples,), tokens per example
    trained_lengths: np.ndarray  # int64 (number of examples,), trained tokens per example
    fingerprint: str  # hex SHA-256 over the examples: equal only if every id and weight is

    @property
    def held_bytes(self) -> int: ...  # of memory

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclass(frozen=True)
class MicroBatch:
    """Examples laid out for one forward pass: packed into one row, or padded into several.

    Attributes:
        input_ids: int64 (1, T) packed, or (S, longest) padded on the right.
        position_ids: int64, same shape; restarts at 0 with each example.
        attention_mask: None when packed; int64 (S, longest) of 0/1 when padded.
        cu_seqlens: int32 (S + 1,) start of each example in the packed row, and its end; None when
            padded.
        lengths: tokens of each example, known to the host wherever the tensors are.
        max_seqlen: tokens of the longest example.
        predictor_rows: int64 (N,), rows of `hidden.reshape(-1, D)` whose next token is trained.
        targets: int64 (N,), the token each of those rows has to predict.
        target_weights: float32 (N,), its loss weight.
        target_examples: int64 (N,), which of the S examples it belongs to (0 .. S-1).
        example_ids: int64 (S,), index of each example in its ExampleSet.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    cu_seqlens: torch.Tensor | None
    lengths: tuple[int, ...]
    max_seqlen: int
    predictor_rows: torch.Tensor
    targets: torch.Tensor
    target_weights: torch.Tensor
    target_examples: torch.Tensor
    example_ids: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens of the examples, padding not counted."""
        return sum(self.lengths)

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same micro-batch on `device`."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        return MicroBatch(
            input_ids=moved(self.input_ids),
            position_ids=moved(self.position_ids),
            attention_mask=None if self.attention_mask is None else moved(self.attention_mask),
            cu_seqlens=None if self.cu_seqlens is None else moved(self.cu_seqlens),
            lengths=self.lengths,
            max_seqlen=self.max_seqlen,
            predictor_rows=moved(self.predictor_rows),
            targets=moved(self.targets),
            target_weights=moved(self.target_weights),
            target_examples=moved(self.target_examples),
            example_ids=moved(self.example_ids),
        )


def examples_in_memory(examples: Sequence[Example], fingerprint: str | None = None) -> ExampleSet:
    """An ExampleSet over a plain list; the fingerprint is computed unless given."""
    return _InMemory(
        list(examples), fingerprint_of(examples) if fingerprint is None else fingerprint
    )


def some_examples(examples: ExampleSet, indices: np.ndarray) -> ExampleSet:
    """The examples at `indices` (int64, in that order) of a set, as a set of its own."""
    return _Some(examples, indices)


def fingerprint_of(examples: Sequence[Example]) -> str:
    """Hex SHA-256 over every example's length, ids and weights, in order."""
    ids, weights = hashlib.sha256(), hashlib.sha256()
    for example in examples:
        ids.update(np.ascontiguousarray(example.input_ids, dtype="<i4").data)
        weights.update(np.ascontiguousarray(example.loss_weights, dtype="<f4").data)
    lengths = np.array([example.num_tokens for example in examples], dtype=np.int64)
    return fingerprint_from(lengths, ids.hexdigest(), weights.hexdigest())


def fingerprint_from(lengths: np.ndarray, ids: str, weights: str) -> str:
    """`fingerprint_of` examples whose arrays were hashed one after the other.

    Args:
        lengths: int64 (number of examples,), tokens of each.
        ids, weights: hex SHA-256 over all ids as little-endian int32, and over all weights as
            float32.
    """
    parts = lengths.astype("<i8").tobytes() + bytes.fromhex(ids) + bytes.fromhex(weights)
    return hashlib.sha256(parts).hexdigest()


class _InMemory:
    def __init__(self, examples: list[Example], fingerprint: str) -> None:
        self._examples = examples
        self.fingerprint = fingerprint
        self.lengths = np.array([e.num_tokens for e in examples], dtype=np.int64)
        self.trained_lengths = np.array([e.num_trained_tokens for e in examples], dtype=np.int64)

    @property
    def held_bytes(self) -> int:
        arrays = (array for e in self._examples for array in (e.input_ids, e.loss_weights))
        return (
            sum(array.nbytes for array in arrays)
            + self.lengths.nbytes
            + self.trained_lengths.nbytes
        )

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


class _Some:
    """The fingerprint is made of the whole set's and the indices, without reading an example."""

    def __init__(self, examples: ExampleSet, indices: np.ndarray) -> None:
        self._examples = examples
        self._indices = indices
        self.lengths = examples.lengths[indices]
        self.trained_lengths = examples.trained_lengths[indices]
        chosen = indices.astype("<i8").tobytes()
        self.fingerprint = hashlib.sha256(examples.fingerprint.encode() + chosen).hexdigest()

    @property
    def held_bytes(self) -> int:
        own = self._indices.nbytes + self.lengths.nbytes + self.trained_lengths.nbytes
        return self._examples.held_bytes + own

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._examples[int(self._indices[index])]
