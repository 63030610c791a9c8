"""Order, packing and layout: pure functions, checked on any input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorakit.data.examples import Example
from lorakit.data.pack import collate, epoch_order, pack, pack_padded, step_of_epoch
from lorakit.errors import DataError

lengths_of = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@st.composite
def examples_of(draw: st.DrawFn) -> list[Example]:
    examples = []
    for length in draw(st.lists(st.integers(1, 12), min_size=1, max_size=6)):
        ids = draw(st.lists(st.integers(1, 99), min_size=length, max_size=length))
        weights = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=length, max_size=length))
        weights[0] = 0.0
        examples.append(Example(np.array(ids, np.int32), np.array(weights, np.float32)))
    return examples


@given(lengths_of, st.integers(1, 60))
def test_packs_hold_every_example_once_within_the_budget(lengths: list[int], budget: int) -> None:
    for packer, size in (
        (pack, lambda members: sum(lengths[i] for i in members)),
        (pack_padded, lambda members: len(members) * max(lengths[i] for i in members)),
    ):
        bins = packer(lengths, budget)
        assert sorted(i for members in bins for i in members) == list(range(len(lengths)))
        assert all(members == sorted(members) for members in bins)
        assert all(len(members) == 1 or size(members) <= budget for members in bins)
        assert bins == packer(lengths, budget)


@given(lengths_of, st.integers(40, 80))
def test_best_fit_leaves_no_two_bins_that_would_fit_together(
    lengths: list[int], budget: int
) -> None:
    loads = sorted(sum(lengths[i] for i in members) for members in pack(lengths, budget))
    assert all(a + b > budget for a, b in itertools.pairwise(loads))


def test_best_fit_decreasing_beats_the_given_order() -> None:
    assert len(pack([6, 4, 6, 4, 5, 5], 10)) == 3


@given(examples_of(), st.booleans())
def test_layout_is_the_definition(examples: list[Example], packed: bool) -> None:
    """Every trained token's predictor row holds the token before it, of the same example."""
    batch = collate(examples, range(10, 10 + len(examples)), packed=packed, pad_id=0)
    ids, positions = batch.input_ids.reshape(-1), batch.position_ids.reshape(-1)
    expected = [
        (i, t, int(e.input_ids[t]), float(e.loss_weights[t]))
        for i, e in enumerate(examples)
        for t in np.flatnonzero(e.loss_weights)
    ]
    rows = batch.predictor_rows
    assert batch.target_examples.tolist() == [i for i, _, _, _ in expected]
    assert batch.targets.tolist() == [target for _, _, target, _ in expected]
    assert batch.target_weights.tolist() == [weight for _, _, _, weight in expected]
    assert positions[rows].tolist() == [t - 1 for _, t, _, _ in expected]
    assert ids[rows].tolist() == [int(examples[i].input_ids[t - 1]) for i, t, _, _ in expected]
    assert batch.num_tokens == sum(e.num_tokens for e in examples)
    assert batch.max_seqlen == max(e.num_tokens for e in examples)
    assert batch.example_ids.tolist() == list(range(10, 10 + len(examples)))
    if packed:
        assert batch.attention_mask is None and batch.cu_seqlens is not None
        assert batch.cu_seqlens.dtype == torch.int32
        cuts = batch.cu_seqlens.tolist()
        parts = [ids[a:b].tolist() for a, b in itertools.pairwise(cuts)]
        restarts = [positions[a:b].tolist() for a, b in itertools.pairwise(cuts)]
        assert restarts == [list(range(e.num_tokens)) for e in examples]
    else:
        assert batch.attention_mask is not None and batch.cu_seqlens is None
        parts = [
            row[mask.bool()].tolist()
            for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
        ]
        assert all(  # padding stands on the right
            mask.tolist() == sorted(mask.tolist(), reverse=True) for mask in batch.attention_mask
        )
    assert parts == [e.input_ids.tolist() for e in examples]


def test_an_untrained_micro_batch_has_no_targets() -> None:
    example = Example(np.array([1, 2], np.int32), np.zeros(2, np.float32))
    batch = collate([example], [0], packed=True, pad_id=0)
    assert batch.targets.shape == (0,) and batch.targets.dtype == torch.int64
    assert batch.target_weights.dtype == torch.float32


@given(st.integers(1, 50), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_sees_every_example_once_in_a_seeded_order(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, None, seed, epoch)
    assert order.dtype == np.int64 and sorted(order) == list(range(n))
    assert np.array_equal(order, epoch_order(n, None, seed, epoch))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(50, None, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_never_changes_between_versions() -> None:
    """A resumed run relies on it. Made by epoch_order(8, None, 42, 0) with numpy 2.4.6."""
    assert epoch_order(8, None, 42, 0).tolist() == [7, 0, 4, 2, 1, 3, 5, 6]
    assert epoch_order(8, np.ones(8), 42, 0).tolist() == [7, 0, 4, 2, 1, 3, 5, 6]


def test_weights_repeat_rows_and_take_another_share_each_epoch() -> None:
    repeats = np.array([1.0] * 10 + [2.5] * 10 + [0.3] * 10)
    seen = np.zeros(30)
    for epoch in range(400):
        counts = np.bincount(epoch_order(30, repeats, 0, epoch), minlength=30)
        assert (counts[:10] == 1).all()
        assert counts[10:20].sum() == 25 and set(counts[10:20]) == {2, 3}
        assert counts[20:].sum() == 3
        seen += counts
    assert np.abs(seen / 400 - repeats).max() < 0.1  # 400 draws: 4 standard errors of 0.025


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4))
def test_ranks_share_each_step(n: int, batch_size: int, world_size: int) -> None:
    order = epoch_order(n, None, 0, 0)
    seen = []
    for step in range(-(-n // batch_size)):
        whole = step_of_epoch(order, step, batch_size)
        parts = [step_of_epoch(order, step, batch_size, r, world_size) for r in range(world_size)]
        assert sorted(np.concatenate(parts)) == sorted(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        seen += whole.tolist()
    assert seen == order.tolist()


@pytest.mark.parametrize("packed", [True, False])
def test_moving_keeps_every_field(packed: bool) -> None:
    example = Example(np.array([1, 2, 3], np.int32), np.array([0, 1, 1], np.float32))
    batch = collate([example, example], [0, 1], packed=packed, pad_id=0)
    moved = batch.to("cpu")
    for name, value in vars(batch).items():
        other = vars(moved)[name]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_small_shares_are_carried_over_and_never_lost() -> None:
    repeats = np.array([1.0] * 12 + [0.04] * 10 + [0.07] * 10)
    seen = np.zeros(32)
    for epoch in range(100):
        order = epoch_order(32, repeats, 5, epoch)
        assert np.array_equal(order, epoch_order(32, repeats, 5, epoch))
        assert 12 <= len(order) <= 14
        seen += np.bincount(order, minlength=32)
        assert seen[12:22].sum() == (4 * (epoch + 1)) // 10
        assert seen[22:].sum() == (7 * (epoch + 1)) // 10


def test_an_epoch_without_any_example_is_refused() -> None:
    with pytest.raises(DataError, match=r"0\.4 of 10 examples per epoch, which is less than one"):
        epoch_order(10, np.full(10, 0.04), 0, 0)
    with pytest.raises(DataError, match="less than one"):
        epoch_order(2, np.zeros(2), 0, 0)
