"""The completions of one cycle of generation: what a checkpoint inside the cycle holds.

P prompts, G completions of each, E = P * G completions of N tokens together, K rewards.

A cycle needs so many groups that vary. Where a resample was asked for, further questions follow the
cycle's own, P grows, and steps see the groups that are `chosen`: the first that vary, and where
these are too few, the first of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit import kernels
from lorakit.data.questions import Question
from lorakit.generate import Completion
from lorakit.train.advantages import Advantages, advantages
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.samplers import Asked, Sampler, sample_here


@dataclass(frozen=True)
class Seconds:
    """How long the parts of a generation took."""

    rollout: float
    reward: float


@dataclass
class Rollouts:
    """Completions and what is known of them. Completion i answers question i // G.

    Attributes:
        cycle: counted from 0.
        questions: P.
        texts: E; empty once all are scored, and a checkpoint was gone on from.
        lengths: int64 (E,), tokens of each completion.
        token_ids: int32 (N,), one completion after the other.
        truncated: bool (E,), whether a completion did not come to its end.
        rewards: float64 (E, K), not weighted; 0 where it is not scored yet.
        scored: bool (E, K), whether a reward was asked for yet.
        rollout_logprobs: float32 (N,), as sampled.
        num_resamples: how often further questions were asked.
        seconds: what all of it took.
        old_logprobs: float32 (N,), in the numerics of training, by the weights that sampled; None:
            not needed, because the only step that sees a completion has them. 0 where a completion
            does not train.
        undropped_logprobs: likewise with no dropout, as it was sampled; None: these are
            `old_logprobs`, or nothing is corrected.
        ref_logprobs: likewise of the base; None: not needed.
        weighed: what the rewards come to; None: not all are scored.
        chosen: int64, the completions that steps are to see, in order; empty before that.
    """

    cycle: int
    questions: list[Question]
    texts: list[str]
    lengths: torch.Tensor
    token_ids: torch.Tensor
    truncated: torch.Tensor
    rewards: torch.Tensor
    scored: torch.Tensor
    rollout_logprobs: torch.Tensor
    num_resamples: int = 0
    seconds: Seconds = Seconds(0.0, 0.0)
    old_logprobs: torch.Tensor | None = None
    undropped_logprobs: torch.Tensor | None = None
    ref_logprobs: torch.Tensor | None = None
    weighed: Advantages | None = None
    chosen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def advantages(self) -> Advantages:
        """What the rewards come to, once all are there."""
        assert self.weighed is not None, "weigh() comes first"
        return self.weighed

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
        """For a checkpoint; `to_json` is the rest, and advantages follow from the rewards."""
        indices = torch.tensor([question.index for question in self.questions])
        values = {"questions": indices} | {name: getattr(self, name) for name in _TENSORS}
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint, beside `tensors`."""
        return {
            "cycle": self.cycle,
            "num_resamples": self.num_resamples,
            "seconds": asdict(self.seconds),
            # Nobody asks for the texts of a cycle that is scored.
            "texts": [] if bool(self.scored.all()) else self.texts,
        }

    @classmethod
    def restored(
        cls,
        tensors: Mapping[str, torch.Tensor],
        state: Mapping[str, Any],
        question_at: Callable[[int], Question],
        settings: GRPOSettings,
        num_groups: int,
    ) -> Rollouts:
        """What `tensors` and `to_json` gave.

        Args:
            question_at: index of an example -> its question.
            num_groups: see `weigh`.
        """
        questions = [question_at(index) for index in tensors["questions"].tolist()]
        values: dict[str, Any] = {n: value for n, value in tensors.items() if n != "questions"}
        values |= dict(state) | {"seconds": Seconds(**state["seconds"])}
        rollouts = cls(questions=questions, **values)
        if bool(rollouts.scored.all()):
            rollouts.weigh(settings, num_groups)
        return rollouts

    def joined(self, more: Rollouts) -> Rollouts:
        """With a resample behind it; none of both has other log-probabilities than sampled ones."""
        values: dict[str, Any] = {
            name: torch.cat([getattr(self, name), getattr(more, name)]) for name in _OF_GENERATION
        }
        return Rollouts(
            self.cycle,
            self.questions + more.questions,
            self.texts + more.texts,
            **values,
            num_resamples=self.num_resamples + 1,
            seconds=replace(self.seconds, rollout=self.seconds.rollout + more.seconds.rollout),
        )

    def weigh(self, settings: GRPOSettings, num_groups: int) -> None:
        """Advantages of what was scored, and which completions steps see.

        Args:
            num_groups: that the steps of the cycle are to see.
        """
        rewards, size = self.rewards.numpy(), settings.num_generations
        groups = np.arange(len(self)) // size
        found = _advantages(rewards, groups, settings)
        varies = found.varies[::size]
        # Stable: those that vary in the order they were asked, then the others likewise.
        first = np.argsort(~varies, kind="stable")[:num_groups]
        self.chosen = (np.sort(first)[:, None] * size + np.arange(size)).reshape(-1)
        if len(self.chosen) < len(self):
            # What steps do not see has no part in the standard deviation of a batch.
            values = np.zeros(len(self))
            chosen = _advantages(rewards[self.chosen], groups[self.chosen], settings)
            values[self.chosen] = chosen.advantages
            found = replace(found, advantages=values)
        self.weighed = found

    def num_missing(self, settings: GRPOSettings, num_groups: int) -> int:
        """How many groups that vary a whole cycle has more than this one."""
        return max(0, num_groups - int(self.advantages.varies[:: settings.num_generations].sum()))


_OF_GENERATION = ("lengths", "token_ids", "truncated", "rewards", "scored", "rollout_logprobs")
_TENSORS = (*_OF_GENERATION, "old_logprobs", "undropped_logprobs", "ref_logprobs")


def roll_out(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[Question],
    settings: GRPOSettings,
    *,
    cycle: int,
    first_place: int = 0,
    seed: int,
    stop_ids: tuple[int, ...],
    sample: Sampler = sample_here,
    stop_if_asked: Callable[[], None] = lambda: None,
) -> Rollouts:
    """Answer every question `num_generations` times with the model as it stands; not scored yet.

    A completion's random numbers are a function of (seed, cycle, place of its question in the
    cycle, member of its group) alone.

    Args:
        first_place: of the questions in the cycle.
        sample: who answers.
        stop_if_asked: called all the while; what it raises ends it.
    """
    began = time.monotonic()
    count = settings.num_generations
    asked = [question for question in questions for _ in range(count)]
    places = torch.arange(first_place, first_place + len(questions)).repeat_interleave(count)
    members = torch.arange(count).repeat(len(questions))
    completions = sample(
        model,
        tokenizer,
        Asked(
            [question.prompt_ids for question in asked],
            settings.sampling(stop_ids),
            kernels.mix_keys(seed, cycle, places, members).tolist(),
            settings.max_batch,
            stop_if_asked,
        ),
    )
    shape = len(completions), len(settings.rewards)
    return Rollouts(
        cycle,
        questions,
        [completion.text for completion in completions],
        lengths=torch.tensor([len(one.token_ids) for one in completions]),
        token_ids=torch.tensor([t for one in completions for t in one.token_ids]).int(),
        truncated=torch.tensor([one.finish_reason == "length" for one in completions]),
        rewards=torch.zeros(shape, dtype=torch.float64),
        scored=torch.zeros(shape, dtype=torch.bool),
        rollout_logprobs=_joined(completions),
        seconds=Seconds(time.monotonic() - began, 0.0),
    )


def _joined(completions: Sequence[Completion]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([one.logprobs for one in completions]))


def _advantages(rewards: np.ndarray, groups: np.ndarray, settings: GRPOSettings) -> Advantages:
    return advantages(
        rewards,
        groups,
        weights=[one.weight for one in settings.rewards],
        scale_rewards=settings.scale_rewards,
        aggregation=settings.multi_objective_aggregation,
    )
