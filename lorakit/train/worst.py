"""Which micro-batches of a run take the most memory, found from lengths alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorakit.data.examples import ExampleSet
from lorakit.data.pack import packing_of
from lorakit.engine.activations import LayerBytes
from lorakit.engine.recompute import RecomputePolicy
from lorakit.train.batches import StepBatches

# Steps that are looked at, at most: some seconds of work.
MAX_STEPS = 100_000

Group = tuple[int, ...]
Size = tuple[int, int]  # trained tokens, and the sum of squared lengths


@dataclass(frozen=True)
class Worst:
    """Micro-batches one of which takes more memory than all others.

    Attributes:
        groups: the examples of each.
        exact: False: the run has more steps than were looked at.
    """

    groups: tuple[Group, ...]
    exact: bool = True


@dataclass(frozen=True)
class Largest:
    """Of the micro-batches with equally many tokens, the one that takes the most, whatever is
    recomputed: by its trained tokens (the loss), then by the squares of its lengths (attention).

    Attributes:
        by_tokens: {tokens, padding included: (its size, its examples)}.
        exact: False: the run has more steps than were looked at.
    """

    by_tokens: Mapping[int, tuple[Size, Group]]
    exact: bool = True

    def worst(self, policy: RecomputePolicy, layers: Sequence[LayerBytes]) -> Worst:
        """One with more tokens may keep less, because more of it is recomputed; so there are up to
        two: that with the most tokens, and that which keeps the most.

        Args:
            policy, layers: which layers recompute, and what they keep.
        """

        most = (
            max(self.by_tokens),
            max(self.by_tokens, key=lambda n: (kept_bytes(policy, layers, n), n)),
        )
        groups = dict.fromkeys(self.by_tokens[tokens][1] for tokens in most)
        return Worst(tuple(groups), self.exact)


def kept_bytes(policy: RecomputePolicy, layers: Sequence[LayerBytes], tokens: int) -> int:
    """What the layers keep of a micro-batch for its backward pass, by estimate.

    Args:
        policy, layers: which layers recompute, and what they keep.
        tokens: padding included.
    """
    levels = policy.levels(layers, tokens)
    return tokens * sum(getattr(b, level) for b, level in zip(layers, levels, strict=True))


def worst_of_steps(
    batches: StepBatches,
    steps: range,
    *,
    policy: RecomputePolicy,
    layers: Sequence[LayerBytes],
) -> Worst:
    """Of the micro-batches that training will see on this rank.

    Args:
        batches: of the run.
        steps: that it will take.
        policy, layers: which layers recompute, and what they keep.
    """
    return largest_of_steps(batches, steps, ranks=[batches.rank]).worst(policy, layers)


def largest_of_steps(batches: StepBatches, steps: range, *, ranks: Sequence[int]) -> Largest:
    """Of the micro-batches that training will see on some ranks.

    Args:
        batches: of the run, of any rank.
        steps: that it will take; of more than `MAX_STEPS` the first.
        ranks: of `batches.world_size`.
    """
    found = _Found(batches.examples, batches.packed, batches.token_budget)
    for rows_SB in batches.blocks_of(steps[:MAX_STEPS]):
        for rank in ranks:
            found.look_at(rows_SB[:, rank :: batches.world_size])
    return Largest(found.by_tokens, exact=len(steps) <= MAX_STEPS)


def worst_of_set(
    examples: ExampleSet, *, token_budget: int, packed: bool, max_examples: int | None = None
) -> Group:
    """The micro-batch with the most tokens of those that measure the loss of a set."""
    rows = np.arange(len(examples))[:max_examples]
    found = _Found(examples, packed, token_budget)
    found.look_at(rows[None])
    return found.by_tokens[max(found.by_tokens)][1]


class _Found:
    def __init__(self, examples: ExampleSet, packed: bool, token_budget: int) -> None:
        self._lengths, self._trained = examples.lengths, examples.trained_lengths
        self._packed, self._budget = packed, token_budget
        self.by_tokens: dict[int, tuple[Size, Group]] = {}

    def look_at(self, rows_SB: np.ndarray) -> None:
        """S steps of B examples each."""
        count = rows_SB.shape[1]
        if count == 0:
            return
        lengths_SB = self._lengths[rows_SB]
        tokens_S = lengths_SB.sum(axis=1) if self._packed else count * lengths_SB.max(axis=1)
        whole_S = (tokens_S <= self._budget) | (count == 1)
        self._add(rows_SB[whole_S], tokens_S[whole_S])
        share = packing_of(self._packed)
        for rows_B, lengths_B in zip(rows_SB[~whole_S], lengths_SB[~whole_S], strict=True):
            for places in share(lengths_B.tolist(), self._budget):
                group = rows_B[places]
                own = lengths_B[places]
                tokens = own.sum() if self._packed else len(own) * own.max()
                self._add(group[None], np.array([tokens]))

    def _add(self, groups_GB: np.ndarray, tokens_G: np.ndarray) -> None:
        """Micro-batches of equally many examples; of equal ones the first stays."""
        for place, size in self._best(groups_GB, tokens_G):
            tokens = int(tokens_G[place])
            if tokens not in self.by_tokens or size > self.by_tokens[tokens][0]:
                self.by_tokens[tokens] = size, tuple(groups_GB[place].tolist())

    def _best(self, groups_GB: np.ndarray, tokens_G: np.ndarray) -> Iterator[tuple[int, Size]]:
        """The place of the best for each number of tokens, and its size."""
        trained_G = self._trained[groups_GB].sum(axis=1)
        squares_G = np.square(self._lengths[groups_GB]).sum(axis=1)
        order = np.lexsort((-squares_G, -trained_G, tokens_G))
        _, first = np.unique(tokens_G[order], return_index=True)
        for place in order[first].tolist():
            yield place, (int(trained_G[place]), int(squares_G[place]))
