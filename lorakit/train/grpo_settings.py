"""How a policy gradient is run, with the names of TRL's GRPOConfig."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from lorakit.errors import InputError
from lorakit.generate import SamplingSettings
from lorakit.recipe import GRPOSection
from lorakit.recipe.cycle_sizes import CycleSizes, cycle_sizes
from lorakit.recipe.sections.grpo import NamedReward
from lorakit.tasks import ScoringOptions
from lorakit.train.advantages import Aggregation, ScaleRewards
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.reward_functions import OnFailure
from lorakit.train.rewards import Reward, Rewarder, check_rewards
from lorakit.train.rollout_corrections import Correction

_FREE_ON_RESUME = frozenset({"on_reward_failure", "reward_seconds"})


@dataclass(frozen=True)
class GRPOSettings:
    """How to roll out, reward and learn.

    A cycle: completions are generated, `num_generations` of each prompt, and gone through
    `num_iterations` times in steps of `batch_size` completions; see `recipe.cycle_sizes`.

    Attributes:
        rewards: their weighted sum is what is learned.
        loss: the objective; `max_completion_length` is the most tokens of a completion too.
        num_generations: completions of each prompt, a group.
        num_iterations: how often a step sees a completion (mu of the paper).
        generation_batch_size, steps_per_generation, gradient_accumulation_steps: how many
            completions are generated, as in TRL's GRPOConfig; None: those of an optimizer step.
        temperature, top_p, top_k, min_p, stop_strings: of the rollouts; log-probabilities are those
            at the temperature everywhere.
        max_batch: completions that are generated at a time; it changes speed and memory alone.
            None: as many as fit when the run begins, see `Choices`.
        scale_rewards, multi_objective_aggregation: see `advantages`.
        max_resample_times: how often a cycle may ask further questions in the place of groups that
            nothing sets apart, as many as it lacks (dynamic sampling, arXiv 2503.14476; ms-swift's
            name); 0: never.
        mask_truncated_completions: those that did not come to their end teach nothing.
        rollout_importance_sampling_mode: see `rollout_corrections`; None: nothing is corrected, and
            the mismatch is measured only.
        rollout_importance_sampling_clip_max, rollout_importance_sampling_clip_min: its bounds.
        scoring: what scorers need besides, where a reward's own options do not say it.
        on_reward_failure, reward_seconds: of functions of one's own, see `RewardFunction`.

    Raises:
        InputError: a value that cannot work; all of them are named.
    """

    rewards: tuple[Reward, ...]
    loss: PolicyLossSettings = field(default_factory=PolicyLossSettings)
    num_generations: int = 8
    num_iterations: int = 1
    generation_batch_size: int | None = None
    steps_per_generation: int | None = None
    gradient_accumulation_steps: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float | None = None
    stop_strings: tuple[str, ...] = ()
    max_batch: int | None = None
    scale_rewards: ScaleRewards = "group"
    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    max_resample_times: int = 0
    mask_truncated_completions: bool = False
    rollout_importance_sampling_mode: Correction | None = None
    rollout_importance_sampling_clip_max: float | None = 3.0
    rollout_importance_sampling_clip_min: float | None = None
    scoring: ScoringOptions = field(default_factory=ScoringOptions)
    on_reward_failure: OnFailure = "error"
    reward_seconds: float = 60.0

    @classmethod
    def from_section(cls, section: GRPOSection, *, seed: int) -> GRPOSettings:
        """From the recipe's `grpo` section.

        Args:
            seed: of whatever a scorer draws.

        Raises:
            InputError: values that cannot work, or a JSON schema that cannot be used.
        """
        own = set(PolicyLossSettings.__dataclass_fields__)
        shared = set(cls.__dataclass_fields__) - {"rewards", "loss", "scoring", "stop_strings"}
        return cls(
            rewards=tuple(
                Reward(one.scorer, one.weight, _options_of(one), one.name)
                for one in section.named_rewards
            ),
            loss=PolicyLossSettings(**section.model_dump(include=own)),
            stop_strings=tuple(section.stop_strings),
            scoring=ScoringOptions(seed=seed),
            **section.model_dump(include=shared)
            | {"rollout_importance_sampling_mode": section.importance_sampling_mode},
        )

    def __post_init__(self) -> None:
        check_rewards(self.rewards, self.loss.max_completion_length)
        faults = [
            f"{name} {getattr(self, name)!r} (possible: {least} or more)"
            for name, least in (
                ("num_generations", 2),  # alone in its group, a completion has no advantage
                ("num_iterations", 1),
                ("generation_batch_size", 1),
                ("steps_per_generation", 1),
                ("gradient_accumulation_steps", 1),
                ("max_batch", 1),
                ("max_resample_times", 0),
            )
            if getattr(self, name) is not None and getattr(self, name) < least
        ]
        if self.temperature == 0:
            faults.append("temperature 0 (possible: above 0; all of a group would be the same)")
        for name, possible in (
            ("scale_rewards", get_args(ScaleRewards)),
            ("multi_objective_aggregation", get_args(Aggregation)),
            ("on_reward_failure", get_args(OnFailure)),
            ("rollout_importance_sampling_mode", (None, *get_args(Correction))),
        ):
            value = getattr(self, name)
            if value not in possible:
                listed = ", ".join(str(one) for one in possible if one is not None)
                faults.append(f"{name} {value!r} (possible: {listed})")
        low = self.rollout_importance_sampling_clip_min or 0.0
        high = self.rollout_importance_sampling_clip_max
        if not 0 <= low <= (math.inf if high is None else high):
            faults.append(
                f"rollout_importance_sampling_clip_min {low!r} with clip_max {high!r} (possible: 0 "
                "or more, up to clip_max)"
            )
        if faults:
            raise InputError(f"grpo: {'; '.join(faults)}. Change these values.")
        self.sampling(())  # refuses what it cannot sample with

    def cycle(self, batch_size: int) -> CycleSizes:
        """The sizes of every cycle.

        Args:
            batch_size: completions of an optimizer step.

        Raises:
            InputError: they cannot be; all faults are named.
        """
        return cycle_sizes(self, batch_size)

    def sampling(self, stop_ids: tuple[int, ...]) -> SamplingSettings:
        """For the rollouts.

        Args:
            stop_ids: tokens that end a completion, beside the model's own.
        """
        return SamplingSettings(
            max_new_tokens=self.loss.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            stop_strings=self.stop_strings,
            stop_ids=stop_ids,
            tempered_logprobs=True,
        )

    def identity(self) -> dict[str, Any]:
        """The values that a resumed run must share with the checkpoint it goes on from."""
        # `max_batch` too: it moves the last bits of log-probabilities; what is chosen in its place
        # is replayed. How a failing function is dealt with may change, so that a run that it
        # stopped can go on without it.
        values = asdict(self) | {
            "rewards": [one.identity() for one in self.rewards],
            "scoring": self.scoring.identity(),
        }
        return {n: v for n, v in values.items() if n not in _FREE_ON_RESUME}

    def rewarder(self) -> Rewarder:
        """What rewards the completions.

        Raises:
            InputError: a function of one's own that is not there.
        """
        return Rewarder(
            self.rewards,
            self.scoring,
            max_completion_length=self.loss.max_completion_length,
            on_failure=self.on_reward_failure,
            seconds=self.reward_seconds,
        )


def _options_of(reward: NamedReward) -> dict[str, Any]:
    """Those of the recipe, with the schema that a file holds in the place of its name."""
    if reward.scorer != "json_schema":
        return reward.options
    # Not at the top: a plan asks this room for its micro-batches, and jsonschema takes a tenth of a
    # second that few recipes need.
    from lorakit.tasks.json_schema import load_schema

    return {name: load_schema(value) for name, value in reward.options.items()}
