"""Which completions a step sees, and which of them pass through the model."""

from __future__ import annotations

import dataclasses
import itertools
from itertools import chain

import numpy as np
import pytest
import torch

from lorakit.data.questions import Question
from lorakit.train.advantages import advantages
from lorakit.train.choices import Choices
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.policy_steps import PolicySteps
from lorakit.train.question_stream import QuestionStream
from lorakit.train.rewards import Reward
from lorakit.train.rollouts import Rollouts
from tests.train.grpo_runs import questions

SETTINGS = GRPOSettings(rewards=(Reward("regex"),), num_generations=3, generation_batch_size=12)
CHOICES = Choices(64, "none", None, True, "cpu", "torch.float32", 1)


def rollouts(settings: GRPOSettings = SETTINGS, cycle: int = 0, num_groups: int = 4) -> Rollouts:
    lengths = torch.arange(1, 13)
    count = int(lengths.sum())
    rewards = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0.0])[:, None].double()
    truncated = torch.zeros(12, dtype=torch.bool)
    truncated[[4, 8]] = True
    tensors = {
        "lengths": lengths,
        "token_ids": torch.arange(count).int(),
        "truncated": truncated,
        "questions": torch.arange(4),
        "rewards": rewards,
        "scored": torch.ones(rewards.shape, dtype=torch.bool),
        "rollout_logprobs": torch.zeros(count),
    }
    state = {"cycle": cycle, "num_resamples": 0, "texts": []}
    state["seconds"] = {"rollout": 0.0, "reward": 0.0}
    return Rollouts.restored(
        tensors, state, lambda i: Question(i, [1] * (i + 2), [7]), settings, num_groups
    )


def steps_of(
    settings: GRPOSettings = SETTINGS,
    cycle: int = 0,
    seed: int = 3,
    *,
    drops: bool = False,
    choices: Choices = CHOICES,
) -> PolicySteps:
    return PolicySteps(
        rollouts(settings, cycle),
        settings,
        batch_size=6,
        seed=seed,
        choices=choices,
        pad_id=0,
        drops=drops,
    )


def seen(settings: GRPOSettings = SETTINGS, **options) -> list[list[int]]:
    batches = [steps_of(settings, **options).batch(position, position) for position in range(2)]
    return [sorted(int(i) for m in b.micro_batches for i in m.example_ids) for b in batches]


def test_completions_that_cannot_move_the_policy_are_left_out_but_counted() -> None:
    # Groups 0 (all right) and 3 (all wrong) say nothing.
    assert sorted(chain(*seen())) == [3, 4, 5, 6, 7, 8]
    masked = dataclasses.replace(SETTINGS, mask_truncated_completions=True)
    assert sorted(chain(*seen(masked))) == [3, 5, 6, 7]
    pulled = dataclasses.replace(SETTINGS, loss=PolicyLossSettings(beta=0.1))
    assert sorted(chain(*seen(pulled))) == list(range(12))

    total = sum(range(1, 13))
    assert [steps_of().batch(0, p).total_weight for p in range(2)] == [total / 2] * 2
    assert steps_of(masked).batch(0, 0).total_weight == (total - 5 - 9) / 2
    grpo = dataclasses.replace(SETTINGS, loss=PolicyLossSettings(loss_type="grpo"))
    assert steps_of(grpo).batch(0, 1).total_weight == 6


def test_of_more_groups_than_asked_for_those_that_vary_are_seen() -> None:
    found = rollouts(num_groups=2)
    assert found.chosen.tolist() == list(range(3, 9))
    assert found.num_missing(SETTINGS, 3) == 1
    # Too few vary: the first of the others stand in, in the order they were asked.
    assert rollouts(num_groups=3).chosen.tolist() == list(range(9))
    batch = dataclasses.replace(SETTINGS, scale_rewards="batch")
    alone = advantages(found.rewards.numpy()[3:9], [1, 1, 1, 2, 2, 2], scale_rewards="batch")
    weighed = rollouts(batch, num_groups=2).advantages
    assert weighed.advantages[3:9].tolist() == alone.advantages.tolist()
    assert not weighed.advantages[[0, 1, 2, 9, 10, 11]].any()


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("masked", [False, True])
def test_shares_of_what_is_clipped_are_of_all_completions(level: str, masked: bool) -> None:
    """As in TRL: what has no advantage is not clipped, and counts; a masked token does not."""
    settings = dataclasses.replace(
        SETTINGS,
        loss=PolicyLossSettings(importance_sampling_level=level),
        mask_truncated_completions=masked,
    )
    steps = PolicySteps(
        rollouts(settings), settings, batch_size=12, seed=3, choices=CHOICES, pad_id=0, drops=False
    )
    steps.batch(0, 0)
    found = torch.tensor([2.0, 9.0])
    steps._statistics[0] = {"clip_ratio/low": found, "entropy": found}
    told = steps.statistics()
    # Without an advantage: completions 0 to 2 and 9 to 11, of 1 to 3 and 10 to 12 tokens; masked
    # are 4 and 8, of 5 and 9 tokens, which the average over completions counts.
    left_out = 6 + 33 if level == "token" else 6 + 2 * masked
    assert told["clip_ratio/low"].tolist() == [2, 9 + left_out]
    assert told["entropy"].tolist() == [2, 9]


def test_shares_are_a_function_of_seed_and_cycle() -> None:
    pulled = dataclasses.replace(SETTINGS, loss=PolicyLossSettings(beta=0.1), num_iterations=2)
    first = seen(pulled)
    assert first == seen(pulled) and len(first[0]) == len(first[1]) == 6
    assert len({str(seen(pulled, cycle=c, seed=s)) for c in range(3) for s in (3, 4)}) == 6
    again = steps_of(pulled).batch(3, 3)  # the second pass sees the same completions
    assert sorted(int(i) for m in again.micro_batches for i in m.example_ids) == first[1]


def test_a_micro_batch_is_prompt_and_completion() -> None:
    batch = steps_of(drops=True).batch(7, 1)
    assert batch.num_trained_tokens == sum(i + 1 for i in seen()[1])
    assert batch.num_tokens == sum(i + 1 + i // 3 + 2 for i in seen()[1])
    assert batch.step == 7 and batch.masks_of == 0
    held = rollouts()
    for micro_batch in batch.micro_batches:
        start = 0
        for place, completion in enumerate(micro_batch.example_ids.tolist()):
            ids = held.token_ids[held.span(completion)]
            assert len(ids) == completion + 1
            assert micro_batch.targets[micro_batch.target_examples == place].equal(ids.long())
            prompt = held.question(completion).prompt_ids
            assert len(prompt) == completion // 3 + 2
            whole = micro_batch.input_ids[0, start : start + len(prompt) + len(ids)]
            assert whole.tolist() == [*prompt, *ids.tolist()]
            start += len(whole)


def test_a_prompt_is_shared_where_nothing_is_dropped_and_rows_are_packed() -> None:
    everyone = dataclasses.replace(SETTINGS, loss=PolicyLossSettings(beta=0.1))
    padded = dataclasses.replace(CHOICES, packed=False)
    for drops, choices in itertools.product((False, True), (CHOICES, padded)):
        batch = steps_of(everyone, drops=drops, choices=choices).batch(0, 0)
        shares = choices.packed and not drops
        for one in batch.micro_batches:
            ids = one.example_ids.tolist()
            questions_of = [i // 3 for i in ids]
            assert (one.shared is not None) == shares
            if not shares:
                continue
            assert questions_of == sorted(questions_of)  # side by side
            tokens = sum(i + 1 for i in ids) + sum(q + 2 for q in set(questions_of))
            assert one.input_ids.numel() == tokens <= CHOICES.micro_batch_tokens
            assert sum(one.lengths) == sum(i + 1 + i // 3 + 2 for i in ids)
        assert batch.num_tokens == sum(sum(one.lengths) for one in batch.micro_batches)


def test_questions_come_epoch_after_epoch() -> None:
    stream = QuestionStream(questions(5), None, (4,), seed=1, prompts_per_cycle=2)
    assert stream.cycles_per_epoch == 2.5
    asked = [q.index for cycle in range(5) for q in stream.questions(cycle)]
    assert sorted(asked[:5]) == sorted(asked[5:]) == list(range(5))
    assert asked[:5] != asked[5:]  # in another order
    assert [q.index for q in stream.questions(0)] == asked[:2]  # whatever was asked for before

    repeats = np.array([1, 2, 0, 1, 1.0])
    stream = QuestionStream(questions(5), repeats, (4,), seed=1, prompts_per_cycle=5)
    assert sorted(q.index for q in stream.questions(1)) == [0, 1, 1, 3, 4]
