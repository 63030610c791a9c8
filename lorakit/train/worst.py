"""Which micro-batches of a run take the most memory, found from lengths alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorakit.data.examples import ExampleSet
from lorakit.data.pack import packing_of
from lorakit.engine.activations import LayerBytes
from lorakit.engine.recompute import RecomputePolicy
from lorakit.train.batches import StepBatches

# Steps that are looked at, at most: some ten seconds of work.
MAX_STEPS = 100_000


@dataclass(frozen=True)
class Worst:
    """Micro-batches one of which takes more memory than all others.

    Attributes:
        groups: the examples of each.
        exact: False: the run has more steps than were looked at.
    """

    groups: tuple[tuple[int, ...], ...]
    exact: bool = True


def worst_of_steps(
    batches: StepBatches,
    steps: range,
    *,
    policy: RecomputePolicy,
    layers: Sequence[LayerBytes],
) -> Worst:
    """Of the micro-batches that training will see.

    One with more tokens may keep less, because more of it is recomputed; so there are up to two:
    that with the most tokens, and that which keeps the most.

    Args:
        batches: of the run.
        steps: that it will take.
        policy, layers: which layers recompute, and what they keep.
    """
    best = _Best(batches.examples, batches.packed, policy, layers)
    for step in steps[:MAX_STEPS]:
        for group in batches.groups_of(step):
            best.look_at(group)
    return Worst(best.groups(), exact=len(steps) <= MAX_STEPS)


def worst_of_set(
    examples: ExampleSet, *, token_budget: int, packed: bool, max_examples: int | None = None
) -> tuple[int, ...]:
    """The micro-batch with the most tokens of those that measure the loss of a set."""
    best = _Best(examples, packed, RecomputePolicy(), [])
    for group in packing_of(packed)(examples.lengths[:max_examples].tolist(), token_budget):
        best.look_at(group)
    return best.groups()[0]


class _Best:
    def __init__(
        self,
        examples: ExampleSet,
        packed: bool,
        policy: RecomputePolicy,
        layers: Sequence[LayerBytes],
    ) -> None:
        self._lengths, self._trained = examples.lengths, examples.trained_lengths
        self._packed, self._policy, self._layers = packed, policy, layers
        self._kept_of: dict[int, int] = {}
        self._best: dict[str, tuple[tuple[int, ...], list[int]]] = {}

    def look_at(self, group: list[int]) -> None:
        lengths = self._lengths[group]
        tokens = int(lengths.sum() if self._packed else len(group) * lengths.max())
        trained = int(self._trained[group].sum())
        kept = self._kept(tokens)
        # Ties by what else takes memory: attention's share of a long example, the loss.
        squares = int(np.square(lengths).sum())
        for name, rank in (
            ("tokens", (tokens, trained, squares)),
            ("kept", (kept, tokens, trained, squares)),
        ):
            if name not in self._best or rank > self._best[name][0]:
                self._best[name] = rank, group

    def groups(self) -> tuple[tuple[int, ...], ...]:
        return tuple(dict.fromkeys(tuple(group) for _, group in self._best.values()))

    def _kept(self, tokens: int) -> int:
        if tokens not in self._kept_of:
            levels = self._policy.levels(self._layers, tokens)
            kept = sum(getattr(b, level) for b, level in zip(self._layers, levels, strict=True))
            self._kept_of[tokens] = tokens * kept
        return self._kept_of[tokens]
