"""Order, batch, pack: which examples an optimizer step sees, and how they lie in its forward
passes.

Everything here is a pure function of its arguments: a resumed run needs no generator state, and the
packing cannot change which examples a step is made of.

S examples of a micro-batch, T tokens, N trained positions.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch

from lorakit.data.examples import Example, MicroBatch, SharedPrompts
from lorakit.errors import DataError


def epoch_order(num_examples: int, repeats: np.ndarray | None, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch.

    Args:
        num_examples: examples in the set.
        repeats: float64 (num_examples,), how often each is seen per epoch; the fractional part
            decides by chance, anew each epoch. Of the rows of each distinct fraction exactly its
            share is taken, rounded down, and the remainder carried over to the next epoch, so that
            small shares are seen too. None: once each.
        seed: of the run.
        epoch: 0-based.

    Returns:
        int64 (examples this epoch,), indices in the order they are seen. No epoch has fewer than
        the first.

    Raises:
        DataError: the repeats leave the epoch without any example.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = np.arange(num_examples, dtype=np.int64)
    if repeats is not None:
        whole = np.floor(repeats).astype(np.int64)
        fraction = np.round(repeats - whole, 9)
        for share in np.unique(fraction[fraction > 0]):
            members = np.flatnonzero(fraction == share)
            # The decimal that was written, not its binary neighbour: floor is taken of a product.
            per_epoch = Fraction(str(float(share))) * len(members)
            taken = math.floor((epoch + 1) * per_epoch) - math.floor(epoch * per_epoch)
            whole[generator.permutation(members)[:taken]] += 1
        order = np.repeat(order, whole)
        if not len(order):
            raise DataError(
                f"the weights leave {float(repeats.sum()):.3g} of {num_examples} examples per "
                "epoch, which is less than one; an epoch needs one at least. Raise the weights of "
                "the sets, or give more rows."
            )
    return generator.permutation(order)


def step_of_epoch(
    order: np.ndarray, step: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """The examples of one optimizer step of an epoch, for one rank.

    Step k sees `order[k * batch_size : (k + 1) * batch_size]` over all ranks together; the last
    step may be short. Rank r takes every world_size-th of them from r on, possibly none.

    Returns:
        int64, a view of `order`: made in the same time however long the epoch is.
    """
    return order[step * batch_size : (step + 1) * batch_size][rank::world_size]


def pack(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Share one optimizer step's examples among micro-batches of at most `token_budget` tokens.

    Best fit decreasing: the longest first, each into the fullest micro-batch that still has room;
    ties by position. An example over the budget gets a micro-batch of its own.

    Returns:
        positions in `lengths`, ascending inside each micro-batch; every position exactly once.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, bin), sorted
    for i in longest_first:
        place = bisect.bisect_left(rooms, (lengths[i], -1))
        if place < len(rooms):
            room, chosen = rooms.pop(place)
        else:
            room, chosen = max(token_budget, lengths[i]), len(bins)
            bins.append([])
        bins[chosen].append(i)
        bisect.insort(rooms, (room - lengths[i], chosen))
    return [sorted(members) for members in bins]


def pack_padded(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """As `pack`, for padded micro-batches: rows times the longest row stay within the budget.

    Examples of similar length share a micro-batch, longest first.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    bins: list[list[int]] = []
    width = 0
    for i in longest_first:
        if bins and (len(bins[-1]) + 1) * width <= token_budget:
            bins[-1].append(i)
        else:
            bins.append([i])
            width = lengths[i]
    return [sorted(members) for members in bins]


def packing_of(packed: bool) -> Callable[[Sequence[int], int], list[list[int]]]:
    """How examples are shared out: `pack`, or `pack_padded` where they may not share a row."""
    return pack if packed else pack_padded


def collate(
    examples: Sequence[Example], example_ids: Sequence[int], *, packed: bool, pad_id: int
) -> MicroBatch:
    """Lay examples out for one forward pass.

    Args:
        examples: S examples with at least one token each.
        example_ids: S indices in their ExampleSet.
        packed: one row with `cu_seqlens`, or S rows padded on the right with an attention mask.
        pad_id: id written where nothing is; never trained, never attended to.

    Returns:
        the micro-batch; `predictor_rows` index `hidden.reshape(-1, D)`.
    """
    lengths = np.array([example.num_tokens for example in examples], dtype=np.int64)
    longest = int(lengths.max())
    width = int(lengths.sum()) if packed else longest
    starts = (
        np.concatenate([[0], np.cumsum(lengths)[:-1]])
        if packed
        else np.arange(len(examples), dtype=np.int64) * longest
    )
    shape = (1, width) if packed else (len(examples), width)
    ids = np.full(shape, pad_id, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    for example, start, length in zip(examples, starts, lengths, strict=True):
        ids.reshape(-1)[start : start + length] = example.input_ids
        positions.reshape(-1)[start : start + length] = np.arange(length)
        mask.reshape(-1)[start : start + length] = 1
    trained = [np.flatnonzero(example.loss_weights) for example in examples]
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return MicroBatch(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        attention_mask=None if packed else torch.from_numpy(mask),
        cu_seqlens=torch.from_numpy(cu_seqlens) if packed else None,
        lengths=tuple(lengths.tolist()),
        max_seqlen=longest,
        predictor_rows=_joined([s + t - 1 for s, t in zip(starts, trained, strict=True)], np.int64),
        targets=_joined([e.input_ids[t] for e, t in zip(examples, trained, strict=True)], np.int64),
        target_weights=_joined(
            [e.loss_weights[t] for e, t in zip(examples, trained, strict=True)], np.float32
        ),
        target_examples=_joined([np.full(len(t), i) for i, t in enumerate(trained)], np.int64),
        example_ids=torch.tensor(list(example_ids), dtype=torch.int64),
    )


def collate_shared(
    examples: Sequence[Example], example_ids: Sequence[int], prompt_lengths: Sequence[int]
) -> MicroBatch:
    """As `collate` packs them, with the prompt of neighbours that begin alike in the row once.

    Args:
        examples: S examples with a token or more behind their prompts.
        example_ids: S indices in their ExampleSet.
        prompt_lengths: S numbers, of the tokens that an example may share, none of them trained.
    """
    whole = collate(examples, example_ids, packed=True, pad_id=0)
    kept, rows = [], []  # tokens of the whole layout that stay; the row's token of each
    lengths: list[int] = []
    pieces: list[tuple[int, int]] = []
    prompt, prompt_rows = None, np.arange(0)
    num_rows = start = 0
    for example, length in zip(examples, prompt_lengths, strict=True):
        ids, own = example.input_ids, example.num_tokens - length
        if prompt is None or not np.array_equal(ids[:length], prompt):
            prompt, prompt_rows = ids[:length], num_rows + np.arange(length)
            kept.append(start + np.arange(length))
            num_rows += length
            lengths.append(length)
            piece_of_prompt = len(lengths) - 1
        kept.append(start + length + np.arange(own))
        rows += [prompt_rows, num_rows + np.arange(own)]
        lengths.append(own)
        pieces.append((piece_of_prompt, len(lengths) - 1))
        num_rows += own
        start += example.num_tokens
    stays, row_of = _joined(kept, np.int64), _joined(rows, np.int64)
    return replace(
        whole,
        input_ids=whole.input_ids[:, stays],
        position_ids=whole.position_ids[:, stays],
        predictor_rows=row_of[whole.predictor_rows],
        shared=SharedPrompts(tuple(lengths), tuple(pieces)),
    )


def pack_groups(
    prompt_lengths: Sequence[int], lengths: Sequence[int], groups: Sequence[int], token_budget: int
) -> list[list[int]]:
    """As `pack`, for examples that share the prompt of their group.

    Args:
        prompt_lengths: of each example's prompt.
        lengths: of what each example goes on with.
        groups: its group; members of one group have one prompt.
        token_budget: of a micro-batch, a prompt counted once for each group in it.

    Returns:
        positions, those of a group side by side inside each micro-batch.
    """
    parts: list[list[int]] = []
    sizes: list[int] = []
    open_part: dict[int, int] = {}  # of each group the part that still takes members
    for position, group in enumerate(groups):
        part = open_part.get(group)
        if part is None or sizes[part] + lengths[position] > token_budget:
            part = open_part[group] = len(parts)
            parts.append([])
            sizes.append(prompt_lengths[position])
        parts[part].append(position)
        sizes[part] += lengths[position]
    return [
        sorted((position for part in bin for position in parts[part]), key=lambda i: (groups[i], i))
        for bin in pack(sizes, token_budget)
    ]


def _joined(parts: Sequence[np.ndarray], dtype: type) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(dtype))
