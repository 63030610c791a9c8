"""The beginning of a cycle: completions, their rewards, and further questions where these tell
nothing apart.

Each part is kept as it is there: a run that a signal stops, or a reward that fails, goes on with
the completions and the rewards that there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.data.questions import decoded, decoded_prompts
from lorakit.data.sources import Row
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.question_stream import QuestionStream
from lorakit.train.reward_functions import Answers
from lorakit.train.rewards import Rewarder
from lorakit.train.rollouts import Rollouts, roll_out
from lorakit.train.samplers import Sampler, sample_here


@dataclass(frozen=True)
class Generation:
    """How the completions of a run come about.

    Attributes:
        grpo: sampling, rewards, and how often further questions may be asked.
        rewarder: of these rewards.
        rows: behind the examples that questions are made of, whose columns a function of one's own
            may ask for; None: there are none.
        stream: of the questions.
        seed: of the run.
        stop_ids: tokens that end a completion, beside the model's own.
        stop_if_asked: called at each token, before each reward and while it is asked for; what it
            raises ends it.
        sample: who answers the questions.
    """

    tokenizer: PreTrainedTokenizerBase
    grpo: GRPOSettings
    rewarder: Rewarder
    rows: Sequence[Row] | None
    stream: QuestionStream
    seed: int
    stop_ids: tuple[int, ...]
    stop_if_asked: Callable[[], None]
    sample: Sampler = sample_here

    def advance(self, model: PreTrainedModel, cycle: int, rollouts: Rollouts | None) -> Rollouts:
        """The next completions of a cycle, not scored; see `is_whole`.

        Args:
            rollouts: the cycle's so far, all scored; None: it begins.
        """
        if rollouts is None:
            questions, place = self.stream.questions(cycle), 0
        else:
            place = len(rollouts.questions)
            missing = rollouts.num_missing(self.grpo, self.stream.prompts_per_cycle)
            questions = self.stream.further(cycle, place, missing)
        found = roll_out(
            model,
            self.tokenizer,
            questions,
            self.grpo,
            cycle=cycle,
            first_place=place,
            seed=self.seed,
            stop_ids=self.stop_ids,
            sample=self.sample,
            stop_if_asked=self.stop_if_asked,
        )
        return found if rollouts is None else rollouts.joined(found)

    def reward(self, rollouts: Rollouts) -> None:
        """Ask for the rewards that are not there yet, in place.

        Raises:
            RunError: a reward failed; those before it are kept.
        """
        for place, one in enumerate(self.grpo.rewards):
            rows = torch.nonzero(~rollouts.scored[:, place])[:, 0]
            if not len(rows):
                continue
            self.stop_if_asked()
            began = time.monotonic()
            column = self.rewarder.score(
                one, self._answers(rollouts, rows.tolist()), self.stop_if_asked
            )
            rollouts.rewards[rows, place] = torch.from_numpy(column)
            rollouts.scored[rows, place] = True
            seconds = rollouts.seconds.reward + time.monotonic() - began
            rollouts.seconds = replace(rollouts.seconds, reward=seconds)
        if rollouts.weighed is None:
            rollouts.weigh(self.grpo, self.stream.prompts_per_cycle)

    def _answers(self, rollouts: Rollouts, completions: Sequence[int]) -> Answers:
        """Completions as rewards see them."""
        asked = [rollouts.question(completion) for completion in completions]
        found = [None if self.rows is None else self.rows[one.index] for one in asked]
        # A checkpoint does not keep the texts of what was scored: these are missing at the front.
        missing = len(rollouts) - len(rollouts.texts)
        return Answers(
            [rollouts.texts[completion - missing] for completion in completions],
            [decoded(self.tokenizer, question.reference_ids) for question in asked],
            decoded_prompts(self.tokenizer, [question.prompt_ids for question in asked]),
            [rollouts.token_ids[rollouts.span(i)].tolist() for i in completions],
            [{} if row is None else row.values for row in found],
            [
                f"example {question.index}" if row is None else row.location
                for question, row in zip(asked, found, strict=True)
            ],
        )

    def is_whole(self, rollouts: Rollouts) -> bool:
        """Whether steps may begin: enough groups vary, or no further questions may be asked."""
        return (
            rollouts.num_resamples == self.grpo.max_resample_times
            or rollouts.num_missing(self.grpo, self.stream.prompts_per_cycle) == 0
        )
