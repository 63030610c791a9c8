"""The largest micro-batches of a policy gradient: none that a run makes is larger."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorakit.data.examples import Example, MicroBatch, examples_in_memory
from lorakit.data.questions import Question
from lorakit.train.choices import Choices
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.policy_first import longest_rollouts
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.policy_steps import PolicySteps, shares_prompts
from lorakit.train.policy_worst import PolicyShape, worst_answered
from lorakit.train.question_stream import QuestionStream
from lorakit.train.rewards import Reward
from lorakit.train.rollouts import Rollouts

DRAWS = 12  # runs of each kind, of one generation

# (batch_size, num_generations, generation_batch_size)
SIZES = [(4, 2, 8), (4, 4, 4), (6, 3, 12), (4, 8, 8), (16, 4, 16)]


def stream_of(lengths: list[int], prompts: int) -> QuestionStream:
    """Questions of so many tokens, of which no two begin alike."""
    examples = []
    for number, length in enumerate(lengths):
        ids = np.full(length + 1, 5 + number, np.int32)
        examples.append(Example(ids, np.array([0] * length + [1], np.float32)))
    return QuestionStream(examples_in_memory(examples), None, (), seed=0, prompts_per_cycle=prompts)


def rolled_out(stream: QuestionStream, lengths: np.ndarray, grpo: GRPOSettings) -> Rollouts:
    """A generation with completions of these lengths."""
    count = len(lengths)

    def question_at(index: int) -> Question:
        return stream.at(index)

    asked = stream.questions(0)
    tensors = {
        "questions": torch.tensor([one.index for one in asked]),
        "lengths": torch.from_numpy(lengths),
        "token_ids": torch.full((int(lengths.sum()),), 7).int(),
        "truncated": torch.zeros(count, dtype=torch.bool),
        "rewards": torch.zeros((count, 1), dtype=torch.float64),
        "scored": torch.ones((count, 1), dtype=torch.bool),
        "rollout_logprobs": torch.zeros(int(lengths.sum())),
    }
    state = {"cycle": 0, "num_resamples": 0, "texts": []}
    state["seconds"] = {"rollout": 0.0, "reward": 0.0}
    return Rollouts.restored(tensors, state, question_at, grpo, len(asked))


def size_of(one: MicroBatch) -> tuple[int, int]:
    """Tokens of a pass, padding included, and those that attention sees."""
    tokens = one.input_ids.numel()
    return tokens, tokens if one.cu_seqlens is None else sum(one.lengths)


@pytest.mark.parametrize(("packed", "drops"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("budget", [24, 70, 200, 5000])
@pytest.mark.parametrize("sizes", SIZES)
def test_no_micro_batch_of_a_run_is_larger(
    packed: bool, drops: bool, budget: int, sizes: tuple[int, int, int]
) -> None:
    batch_size, group, whole = sizes
    longest = 20
    grpo = GRPOSettings(
        rewards=(Reward("token_f1"),),
        num_generations=group,
        generation_batch_size=whole,
        loss=PolicyLossSettings(beta=0.1, max_completion_length=longest),  # all pass
    )
    choices = Choices(budget, "none", None, packed, "cpu", "torch.float32", 1)
    cycle = grpo.cycle(batch_size)
    generator = np.random.default_rng([packed, drops, budget, *sizes])
    for draw in range(DRAWS):
        prompts = generator.integers(3, 40, cycle.prompts + draw % 3).tolist()
        stream = stream_of(prompts, cycle.prompts)
        shape = PolicyShape(
            stream.prompt_lengths,
            longest,
            batch_size,
            group,
            cycle.prompts,
            budget,
            packed,
            shares_prompts(packed=packed, drops=drops),
        )

        def steps_of(rollouts: Rollouts, seed: int = draw) -> PolicySteps:
            return PolicySteps(
                rollouts,
                grpo,
                batch_size=batch_size,
                seed=seed,
                choices=choices,
                pad_id=0,
                drops=drops,
            )

        worst = []
        for answered in worst_answered(shape, lambda tokens: tokens):
            rollouts = longest_rollouts(stream, answered, 1)
            (one,) = steps_of(rollouts).batch_of(0, range(len(rollouts))).micro_batches
            worst.append(size_of(one))
        most_tokens, most_seen = np.max(worst, axis=0)
        assert most_tokens <= shape.most_tokens
        least = generator.choice([1, longest // 2, longest])
        lengths = generator.integers(least, longest + 1, whole)
        steps = steps_of(rolled_out(stream, lengths, grpo))
        for position in range(cycle.steps_per_pass):
            for one in steps.batch(position, position).micro_batches:
                tokens, seen = size_of(one)
                assert tokens <= most_tokens and seen <= most_seen, (draw, worst)


def test_it_is_as_large_as_a_micro_batch_may_be() -> None:
    """Where there are enough completions, not one token more fits; one alone may be larger."""
    for budget in (100, 33):
        shape = PolicyShape(np.full(9, 30), 20, 64, 8, 8, budget, True, True)
        fullest, *rest = worst_answered(shape, lambda tokens: tokens)
        assert fullest[0] == (0, 20)  # the longest prompt, and a completion of full length
        assert shape.row_tokens(fullest) == max(budget, 50)
        assert [shape.row_tokens(one) for one in rest] == [budget] * len(rest)
        assert max(map(shape.seen_tokens, rest)) == (16 * 30 + 40 if budget == 100 else 3 * 30 + 3)


def test_what_keeps_the_most_is_looked_for_beside_what_has_the_most_tokens() -> None:
    """Recompute may begin where a micro-batch is large."""
    shape = PolicyShape(np.full(9, 30), 20, 64, 8, 8, 1000, True, False)
    found = worst_answered(shape, lambda tokens: tokens if tokens <= 500 else tokens // 4)
    sizes = [sum(30 + n for _, n in answered) for answered in found]
    assert max(sizes) > 950 and any(450 < size <= 500 for size in sizes)
