"""Slots keep every sequence's keys and values, whoever joins, leaves or moves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lorakit.base import kv_groups, kv_slots
from lorakit.base.kv_groups import capacity_of
from lorakit.base.kv_slots import KVSlots
from lorakit.plan.ledger import Ledger

HEADS, SIZE, NUM_LAYERS = 2, 3, 2
# How keys and values come: each for itself, in one tensor, or of different sizes.
WAYS = ("apart", "as one", "wider values")
CPU = torch.device("cpu")


class Model:
    """Keys and values of token t of sequence s are told by (s, t, layer)."""

    def __init__(self, num_slots: int, way: str = "apart") -> None:
        self.way = way
        self.slots = KVSlots(num_slots, CPU)
        self.running: list[list[int]] = []  # [sequence, its length]

    def run_pass(self, prompts: list[list[int]]) -> None:
        """`prompts` are [sequence, its length]; checks what every layer's attention is given."""
        positions = self.slots.layout_pass([length for _, length in prompts])
        tokens = [(sequence, length) for sequence, length in self.running]
        tokens += [(sequence, place) for sequence, length in prompts for place in range(length)]
        assert positions.tolist() == [[place for _, place in tokens]]
        for entry in self.running:
            entry[1] += 1
        for layer in range(NUM_LAYERS):
            keys = torch.stack([self.key(*token, layer) for token in tokens], dim=1)
            values = self.values_of(keys)
            both = None
            if self.way == "as one":
                both = torch.cat([keys, values]).transpose(0, 1).contiguous()
            seen = 0
            for group in self.slots.store(keys, values, 4, both_TKD=both):
                for row, place in enumerate(range(group.tokens.start, group.tokens.stop)):
                    sequence, length = self.running[place]
                    expected = [self.key(sequence, place, layer) for place in range(length)]
                    got = group.keys[row, :, :length]
                    assert torch.equal(got, torch.stack(expected, dim=1))
                    assert torch.equal(group.values[row, :, :length], self.values_of(got))
                    visible = (group.mask[row] == 0).nonzero()[:, 0].tolist()
                    assert visible == list(range(max(0, length - 4), length))
                    seen += 1
            assert seen == len(self.running)
        self.running += [list(prompt) for prompt in prompts]

    def free(self, finished: list[int]) -> None:
        gone = [self.running[place][0] for place in finished]
        before = [sequence for sequence, _ in self.running]
        self.running = [self.running[place] for place in self.slots.free(finished)]
        assert sorted(sequence for sequence, _ in self.running) == sorted(set(before) - set(gone))

    def values_of(self, keys: torch.Tensor) -> torch.Tensor:
        return -torch.cat([keys, keys], dim=-1) if self.way == "wider values" else -keys

    @staticmethod
    def key(sequence: int, place: int, layer: int) -> torch.Tensor:
        return torch.full((HEADS, SIZE), 1000.0 * sequence + place + layer / 2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("group", [3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_sequences_keep_what_is_theirs(
    seed: int, group: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"GROWTH": 8, "ROWS": 4}.items():
        monkeypatch.setattr(kv_groups, name, value)
    monkeypatch.setattr(kv_slots, "GROUP", group)
    draw = np.random.default_rng(seed)
    model, joined = Model(num_slots=10, way=way), 0
    for _ in range(40):
        room = 10 - len(model.running)
        count = int(draw.integers(0, room + 1))
        if count or model.running:
            lengths = draw.integers(1, 12, count).tolist()
            model.run_pass([[joined + number, length] for number, length in enumerate(lengths)])
            joined += count
        num_finished = int(draw.integers(0, len(model.running) + 1))
        model.free(sorted(draw.permutation(len(model.running))[:num_finished].tolist()))


def test_slots_that_share_a_prompt_get_copies_of_it() -> None:
    slots = KVSlots(6, CPU)
    prompt, answers = torch.arange(3.0), 10 * torch.arange(6.0)
    assert slots.layout_pass([3, 2], [4, 2]).tolist() == [[0, 1, 2, 0, 1]]
    for layer in range(NUM_LAYERS):
        row = torch.cat([prompt, -1 - prompt[:2]]) + layer
        keys = row.expand(HEADS, -1)[..., None].expand(-1, -1, SIZE)
        assert list(slots.store(keys, 2 * keys, None)) == []
    slots.copy_prompts()
    assert slots.layout_pass([]).tolist() == [[3] * 4 + [2] * 2]
    for layer in range(NUM_LAYERS):
        keys = answers.expand(HEADS, -1)[..., None].expand(-1, -1, SIZE)
        (group,) = slots.store(keys, 2 * keys, None)
        for slot, answer in enumerate(answers):
            before = prompt + layer if slot < 4 else -1 - prompt[:2] + layer
            expected = torch.cat([before, answer[None]])
            seen = group.keys[slot][:, group.mask[slot] == 0]
            assert seen.equal(expected[None, :, None].expand_as(seen))
            assert group.values[slot][:, group.mask[slot] == 0].equal(2 * seen)


def test_groups_stay_in_the_order_of_their_lengths() -> None:
    model = Model(num_slots=64)
    model.run_pass([[number, 100 - number] for number in range(64)])
    draw = np.random.default_rng(0)
    while model.running:
        finished = draw.permutation(len(model.running))[:5].tolist()
        model.free(sorted(finished))
        lengths = [length for _, length in model.running]
        groups = [
            lengths[at : at + kv_slots.GROUP] for at in range(0, len(lengths), kv_slots.GROUP)
        ]
        for longer, shorter in itertools.pairwise(groups):
            assert min(longer) >= max(shorter)


WIDE = 64  # head size, so that what a pass lays out is little beside keys and values
TOKEN_BYTES = 2 * HEADS * WIDE * 4  # keys and values of a token in one layer


def pass_through(slots: KVSlots, prompt_lengths: list[int]) -> None:
    """A forward pass of two layers, whose numbers do not matter."""
    num_tokens = slots.layout_pass(prompt_lengths).shape[1]
    for _ in range(NUM_LAYERS):
        zeros = torch.zeros(HEADS, num_tokens, WIDE)
        for _ in slots.store(zeros, zeros, None):
            pass


def test_memory_follows_what_is_alive() -> None:
    """Lengths with a mean of 0.3 of the longest take less than half of what all at the longest do,
    and one layer alone has old and new memory at once."""
    prompt, most, count = 80, 256, 64
    quantiles = (np.arange(count) + 0.5) / count
    ends = np.clip(np.ceil(-77 * np.log(1 - quantiles)), 1, most)
    left = np.random.default_rng(0).permutation(ends).tolist()
    slots = KVSlots(count, CPU)
    everything = NUM_LAYERS * count * capacity_of(prompt + most) * TOKEN_BYTES
    largest = 0
    with Ledger(1) as ledger:
        pass_through(slots, [prompt] * count)
        for step in range(1, most):
            before = ledger.live
            ledger.begin_phase()
            pass_through(slots, [])
            largest = max(largest, ledger.live)
            one = kv_slots.GROUP * capacity_of(prompt + step) * TOKEN_BYTES
            passing = 8 * count * HEADS * WIDE * 4
            assert ledger.peak <= max(before, ledger.live) + one + passing
            left = [left[old] for old in slots.free([i for i, n in enumerate(left) if n <= step])]
    assert 0.25 * everything < largest < 0.5 * everything
    of_one_group = NUM_LAYERS * kv_slots.GROUP * capacity_of(prompt + most) * TOKEN_BYTES
    assert ledger.live <= 1.05 * of_one_group


def test_of_slots_that_became_empty_the_last_ones_go() -> None:
    """Those in front are used again, with the room they had."""
    slots = KVSlots(40, CPU)
    with Ledger(1) as ledger:
        pass_through(slots, [100] * 40)
        assert slots.free(range(40)) == []
        pass_through(slots, [3] * 17)
    held = NUM_LAYERS * 32 * capacity_of(100) * TOKEN_BYTES
    assert held <= ledger.live <= 1.05 * held


@pytest.mark.parametrize("first", [1, 63, 64, 65, 700])
def test_room_grows_on_one_way_from_wherever_it_begins(first: int) -> None:
    """So a plan need not know how long prompts were; and there is at most an eighth too much."""
    room = capacity_of(first)
    for longest in range(first, 9000):
        room = room if longest <= room else capacity_of(longest)
        assert room == capacity_of(longest)
        assert longest <= room < max(longest + kv_groups.GROWTH, 1.125 * longest + 1)
