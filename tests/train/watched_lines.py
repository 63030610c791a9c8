"""Metrics lines of runs that go wrong, for each watcher, and of sound runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorakit.data.silence import Told
from lorakit.tasks import ScoringOptions
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.rewards import Reward
from lorakit.train.schedule import Schedule
from lorakit.train.settings import LoopSettings
from lorakit.train.watch import Watch
from lorakit.train.watched import Watched

SETTINGS = LoopSettings()
PATIENT = LoopSettings(early_stopping_patience=3)
GRPO = GRPOSettings(
    rewards=(Reward("math"), Reward("tags", 0.2), Reward("regex", -0.1, name="length")),
    scoring=ScoringOptions(regex="."),
)
NUM_LINES = 60


@dataclass(frozen=True)
class Run:
    """Lines, what they are of, and how bad what is seen is."""

    lines: list[dict[str, Any]]
    grpo: GRPOSettings | None = None
    settings: LoopSettings = SETTINGS
    severity: str = "warning"

    def told(self, start: int = 0, *, silence: Sequence[str] = ()) -> list[Told]:
        """What is said at each line from `start` on; those before are of an earlier process."""
        settings = LoopSettings(
            early_stopping_patience=self.settings.early_stopping_patience, silence=tuple(silence)
        )
        watch = Watch(Watched(settings, self.lines[-1]["step"], grpo=self.grpo))
        watch.open(self.lines[:start])
        return [watch.look(line) for line in self.lines[start:]]

    def with_findings(self) -> Run:
        """The run, its lines as metrics.jsonl has them."""
        told = zip(self.lines, self.told(), strict=True)
        lines = [line | said.to_json() for line, said in told]
        return Run(lines, self.grpo, self.settings, self.severity)


def losses(
    loss_at: Callable[[float], float],
    *,
    num_steps: int = 400,
    warmup: int = 20,
    every: int = 1,
    rate: float = 2e-4,
    validations: Mapping[int, float] | None = None,
) -> list[dict[str, Any]]:
    """Lines whose loss is the mean of `loss_at` since the line before."""
    schedule = Schedule("cosine", rate, num_steps, warmup)
    lines: list[dict[str, Any]] = []
    for end in range(every, num_steps + 1, every):
        loss = sum(loss_at(step) for step in range(end - every, end)) / every
        line = {"step": end, "loss": loss, "learning_rate": schedule.learning_rate(end - 1)}
        known = {} if validations is None else validations
        lines.append(line | ({"validation_loss": known[end]} if end in known else {}))
    return lines


def falling(step: float) -> float:
    return 1 + math.exp(-step / 60) + 0.05 * math.sin(step)


def flat(step: float) -> float:
    return 2 + 0.05 * math.sin(step)


def diverging(step: float) -> float:
    return falling(step) + (0 if step < 150 else min(6, (step - 150) / 10))


def spiking(step: float) -> float:
    return falling(step) + (5 if step % 37 == 0 else 0)


SOUND_POLICY = {
    "reward": (0.3, 0.7),
    "frac_reward_zero_std": (0.2, 0.45),
    "completions/mean_length": (100, 140),
    "completions/clipped_ratio": (0.1, 0.05),
    "rewards/math/mean": (0.3, 0.6),
    "rewards/math/std": (0.4, 0.4),
    "rewards/tags/mean": (0.5, 0.9),
    "rewards/tags/std": (0.5, 0.3),
    "rewards/length/mean": (1.0, 1.1),
    "rewards/length/std": (0.4, 0.3),
}


def policy(**ends: tuple[float, float]) -> Run:
    """From one value to the other; two lines of three tell of a generation."""
    found = []
    for place, share in enumerate(np.linspace(0, 1, NUM_LINES)):
        values = {n: low + share * (high - low) for n, (low, high) in (SOUND_POLICY | ends).items()}
        line = {"step": place + 1, "loss": 1e-7, "learning_rate": 1e-5}
        found.append(line | (values if place % 3 else {}))
    return Run(found, GRPO)


def likelihood(loss_at: Callable[[float], float], **options: Any) -> Run:
    return Run(losses(loss_at, **options))


def unrewarded(run: Run) -> Run:
    """The run, had no reward given a number."""
    lines = [{n: v for n, v in line.items() if "reward" not in n} for line in run.lines]
    return Run(lines, run.grpo)


RISING = {100: 1.6, 160: 1.5, 220: 1.55, 280: 1.6, 340: 1.7}
AT_THE_END = {100: 1.6, 200: 1.5, 300: 1.45, 400: 1.6}
FLAWED: dict[str, list[Run]] = {
    "loss-does-not-fall": [
        likelihood(flat, every=every, warmup=warmup)
        for every in (1, 5, 20, 25)
        for warmup in (0, 20, 60)
    ],
    "loss-rises": [
        likelihood(diverging),
        likelihood(diverging, every=5, num_steps=600),
    ],
    "validation-loss-rises": [
        likelihood(falling, validations=RISING),
        likelihood(falling, validations=AT_THE_END),
        Run(losses(falling, validations=RISING), settings=PATIENT, severity="note"),
    ],
    "groups-without-variance": [
        policy(frac_reward_zero_std=(0.3, 0.9)),
        policy(frac_reward_zero_std=(0.9, 0.9)),
    ],
    "no-reward": [unrewarded(policy())],
    "length-runs-away": [
        policy(**{"completions/mean_length": (100, 400), "reward": (0.5, 0.45)}),
        policy(**{"completions/mean_length": (100, 400), "completions/clipped_ratio": (0.1, 0.6)}),
    ],
    "reward-gamed": [
        policy(**{"rewards/math/mean": (0.6, 0.2)}),
        # A reward with a negative weight is lost where its values rise.
        policy(**{"rewards/length/mean": (1.0, 3.0)}),
    ],
}
SOUND: dict[str, Run] = {
    **{
        f"falling, a line every {every}, warm-up {warmup}": likelihood(
            falling, every=every, warmup=warmup
        )
        for every in (1, 5, 20, 25)
        for warmup in (0, 20, 60)
    },
    "single spikes": likelihood(spiking),
    "too short to tell": likelihood(flat, num_steps=45, warmup=0),
    "validation falls": likelihood(falling, validations={100: 1.6, 200: 1.5, 300: 1.45}),
    "validation rises once": likelihood(
        falling, validations={100: 1.6, 200: 1.65, 300: 1.5, 400: 1.45}
    ),
    "validation wavers": likelihood(falling, validations={100: 1.5, 200: 1.505, 300: 1.51}),
    "a policy": policy(),
    "long, and worth it": policy(**{"completions/mean_length": (100, 900)}),
    "a policy, too short to tell": Run(policy(frac_reward_zero_std=(0.9, 0.9)).lines[:12], GRPO),
}
