"""The completions of one cycle of generation: what a checkpoint inside the cycle holds.

P prompts, G completions of each, E = P * G completions of N tokens together, K rewards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit import kernels
from lorakit.data.questions import Question, decoded
from lorakit.generate import Completion, generate
from lorakit.train.advantages import Advantages, advantages
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.rewards import score


@dataclass
class Rollouts:
    """Completions and what is known of them. Completion i answers question i // G.

    Attributes:
        cycle: counted from 0.
        questions: P.
        lengths: int64 (E,), tokens of each completion.
        token_ids: int32 (N,), one completion after the other.
        truncated: bool (E,), whether a completion did not come to its end.
        rewards: float64 (E, K), not weighted.
        rollout_logps: float32 (N,), as sampled.
        old_logps: float32 (N,), in the numerics of training, by the weights that sampled; None:
            not needed, because the only step that sees a completion has them. 0 where a completion
            does not train.
        ref_logps: likewise of the base; None: not needed.
        advantages: of the rewards.
    """

    cycle: int
    questions: list[Question]
    lengths: torch.Tensor
    token_ids: torch.Tensor
    truncated: torch.Tensor
    rewards: torch.Tensor
    rollout_logps: torch.Tensor
    old_logps: torch.Tensor | None
    ref_logps: torch.Tensor | None
    advantages: Advantages

    def __len__(self) -> int:
        return len(self.lengths)

    def place(self, completion: int) -> int:
        """Of the question that a completion answers, among `questions`."""
        return completion * len(self.questions) // len(self)

    def question(self, completion: int) -> Question:
        """The one that a completion answers."""
        return self.questions[self.place(completion)]

    def span(self, completion: int) -> slice:
        """Where its tokens are."""
        stop = int(self.lengths[: completion + 1].sum())
        return slice(stop - int(self.lengths[completion]), stop)

    def tensors(self) -> dict[str, torch.Tensor]:
        """For a checkpoint; cycle and questions follow from the step."""
        values = {
            "lengths": self.lengths,
            "token_ids": self.token_ids,
            "truncated": self.truncated,
            "rewards": self.rewards,
            "rollout_logps": self.rollout_logps,
            "old_logps": self.old_logps,
            "ref_logps": self.ref_logps,
        }
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def of_tensors(
        cls,
        tensors: dict[str, torch.Tensor],
        cycle: int,
        questions: list[Question],
        settings: GRPOSettings,
    ) -> Rollouts:
        """What `tensors` gave."""
        values: dict[str, Any] = dict.fromkeys(("old_logps", "ref_logps")) | tensors
        found = _advantages(tensors["rewards"].numpy(), settings)
        return cls(cycle, questions, **values, advantages=found)


@dataclass(frozen=True)
class Seconds:
    """How long the parts of a generation took."""

    rollout: float
    reward: float


def roll_out(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[Question],
    settings: GRPOSettings,
    *,
    cycle: int,
    seed: int,
    stop_ids: tuple[int, ...],
    on_token: Callable[[int, int], None] | None = None,
) -> tuple[Rollouts, Seconds]:
    """Answer every question `num_generations` times with the model as it stands, and reward it.

    A completion's random numbers are a function of (seed, cycle, place of its question in the
    cycle, member of its group) alone.

    Args:
        on_token: see `generate`.
    """
    began = time.monotonic()
    count = settings.num_generations
    asked = [question for question in questions for _ in range(count)]
    places = torch.arange(len(questions)).repeat_interleave(count)
    members = torch.arange(count).repeat(len(questions))
    completions = generate(
        model,
        tokenizer,
        [question.prompt_ids for question in asked],
        settings.sampling(stop_ids),
        seeds=kernels.mix_keys(seed, cycle, places, members).tolist(),
        max_batch=settings.max_batch,
        on_token=on_token,
        description="rolling out",
    )
    generated = time.monotonic()
    rewards = score(
        settings.rewards,
        [completion.text for completion in completions],
        [decoded(tokenizer, question.reference_ids) for question in asked],
        settings.scoring,
    )
    rollouts = Rollouts(
        cycle,
        questions,
        lengths=torch.tensor([len(one.token_ids) for one in completions]),
        token_ids=torch.tensor([t for one in completions for t in one.token_ids]).int(),
        truncated=torch.tensor([one.finish_reason == "length" for one in completions]),
        rewards=torch.from_numpy(rewards),
        rollout_logps=_joined(completions),
        old_logps=None,
        ref_logps=None,
        advantages=_advantages(rewards, settings),
    )
    return rollouts, Seconds(generated - began, time.monotonic() - generated)


def _joined(completions: Sequence[Completion]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([one.logprobs for one in completions]))


def _advantages(rewards: np.ndarray, settings: GRPOSettings) -> Advantages:
    return advantages(
        rewards,
        np.arange(len(rewards)) // settings.num_generations,
        weights=[one.weight for one in settings.rewards],
        scale_rewards=settings.scale_rewards,
        aggregation=settings.multi_objective_aggregation,
    )
