"""One seed's way through the built-in task: traces, then rewards, measured in between.

What `grpo_builtin.py` asks for; see there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lorakit
from lorakit import tasks
from lorakit.adapters.attached import adapter_disabled
from lorakit.data.meanings import DataRules, SourceSpec
from lorakit.data.prepare import Prepared, prepare_examples
from lorakit.data.questions import decoded, questions
from lorakit.evaluate.before_after import compare_sets
from lorakit.evaluate.judge import Scores, compare_scores
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.statistics import Comparison
from lorakit.generate import SamplingSettings, generate
from lorakit.recipe import LoraConfig, SFTConfig
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.outcome import TrainOutcome
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.rewards import Reward
from lorakit.train.settings import LoopSettings

MAX_TOKENS = 64  # the longest trace of five digits has 49
SAMPLES = 4  # answers to each question
SETS = ("in_domain", "out_of_domain")
ADAPTER = LoraConfig(r=32, lora_alpha=32, target_modules="all-linear")
TAGS = r"\A<think>[^<]*</think><answer>\d+</answer>\Z"
BY_COLUMNS = re.compile(r"<think>\d\+\d(\+1)?=")
SCORING = tasks.ScoringOptions(regex=TAGS)
MARGIN = 0.1  # nats per token that retention may lose, as in recipes/demo.yaml


@dataclass(frozen=True)
class Answers:
    """What one policy answered to a set of E questions, SAMPLES times each.

    Attributes:
        digits: int (E,), of the numbers.
        right: float64 (E,), share of the samples that are right.
        greedy: float64 (E,), whether the most probable answer is.
        by_columns, right_by_columns: of all samples, the share that goes column by column, and how
            many of those are right; NaN: there is none.
        right_at_once: of the other samples.
    """

    digits: np.ndarray
    right: np.ndarray
    greedy: np.ndarray
    by_columns: float
    right_by_columns: float
    right_at_once: float


@dataclass(frozen=True)
class Seed:
    """One seed's way.

    Attributes:
        stages: how the two trainings went.
        answers: {"base", "sft", "grpo": {set: answers}}.
        retention: {"sft", "grpo": loss against the base's, and the verdict}.
        seconds: of each part, on the wall; `processor` is all of it in seconds of processor time.
    """

    stages: dict[str, TrainOutcome]
    answers: dict[str, dict[str, Answers]]
    retention: dict[str, tuple[Comparison, str]]
    seconds: dict[str, float]


def one_seed(
    seed: int, *, sft: dict[str, Any] | None = None, grpo: dict[str, Any] | None = None
) -> Seed:
    """Traces, then rewards; measured before, in between and after.

    Args:
        sft, grpo: options instead of those of `sft_config` and `grpo_loop`.
    """
    clock, processor = _Clock(), time.process_time()
    model, tokenizer = lorakit.load_base("builtin", dtype=torch.float32)
    lorakit.attach_adapter(model, ADAPTER, seed=seed)
    sets = {name: prepared(f"sums_{name}", tokenizer) for name in ("train", *SETS)}
    kept = {"retention": prepared("retention", tokenizer)}
    stop_ids = sets["train"].stop_ids
    measures = Measures(metrics=("loss",), margin=MARGIN)
    answers, retention = {}, {}

    def measure(stage: str) -> None:
        answers[stage] = {
            name: answers_of(model, tokenizer, sets[name], seed=seed) for name in SETS
        }
        if stage != "base":
            result = compare_sets(
                model, tokenizer, kept, measures, _nothing, stop_ids=stop_ids,
                token_budget=4096, packed=True,
            )["retention"]  # fmt: skip
            retention[stage] = (result.metrics["loss"], result.verdict)
        clock.count("measuring")

    with adapter_disabled(model):
        measure("base")
    general = SourceSpec("builtin:general", weight=0.25)
    traces = lorakit.train_sft(
        model,
        tokenizer,
        [SourceSpec("builtin:sums_traces"), general],
        sft_config(seed, **(sft or {})),
        validation="builtin:sums_validation",
    )
    clock.count("sft")
    measure("sft")
    rewards = train_grpo(
        model,
        tokenizer,
        sets["train"].examples,
        grpo_loop(seed, **(grpo or {})),
        grpo_settings(),
        stop_ids=stop_ids,
    )
    clock.count("grpo")
    measure("grpo")
    clock.seconds["processor"] = time.process_time() - processor
    return Seed({"sft": traces, "grpo": rewards}, answers, retention, clock.seconds)


def sft_config(seed: int, **options: Any) -> SFTConfig:
    """The warm start: it ends when three validations in a row are not lower than the best."""
    chosen: dict[str, Any] = {
        "format": "messages",
        "num_train_epochs": 12,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "adam_beta2": 0.95,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.03,
        "eval_steps": 50,
        "early_stopping_patience": 3,
        "logging_steps": 10,
        "seed": seed,
    }
    return SFTConfig(**(chosen | options))


def grpo_loop(seed: int, **options: Any) -> LoopSettings:
    """The loop of the policy gradient; 16 questions a step, 8 answers to each."""
    chosen: dict[str, Any] = {
        "max_steps": 60,
        "batch_size": 128,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 3,
        "seed": seed,
    }
    return LoopSettings(**(chosen | options))


def grpo_settings() -> GRPOSettings:
    """Rewards, rollouts and objective."""
    return GRPOSettings(
        rewards=(Reward("math"), Reward("regex", 0.2)),
        scoring=SCORING,
        num_generations=8,
        max_batch=128,
        loss=PolicyLossSettings(max_completion_length=MAX_TOKENS),
    )


def prepared(name: str, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    """A built-in set."""
    return prepare_examples(f"builtin:{name}", tokenizer, DataRules(format="messages"))


def answers_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, held_out: Prepared, *, seed: int
) -> Answers:
    """Ask every question of a set, and score what comes."""
    asked = questions(held_out.examples, range(len(held_out.examples)), held_out.stop_ids)
    references = [decoded(tokenizer, one.reference_ids) for one in asked]

    def right(count: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Whether answers are right, and whether they go by columns: bool (E, count) each."""
        settings = SamplingSettings(
            max_new_tokens=MAX_TOKENS,
            temperature=temperature,
            stop_ids=held_out.stop_ids,
            seed=seed,
        )
        prompts = [one.prompt_ids for one in asked for _ in range(count)]
        texts = [one.text for one in generate(model, tokenizer, prompts, settings, max_batch=128)]
        wanted = [one for one in references for _ in range(count)]
        scores = tasks.scorer("math").scores(texts, wanted, SCORING)
        ways = np.array([BY_COLUMNS.match(text) is not None for text in texts])
        return scores.astype(bool).reshape(-1, count), ways.reshape(-1, count)

    sampled, ways = right(SAMPLES, 1.0)
    greedy, _ = right(1, 0.0)
    return Answers(
        np.array([row.values["digits"] for row in held_out.rows]),
        sampled.mean(axis=1),
        greedy[:, 0].astype(np.float64),
        float(ways.mean()),
        *(float(sampled[mask].mean()) if mask.any() else np.nan for mask in (ways, ~ways)),
    )


def _nothing(prompts: Sequence[Sequence[int]], description: str) -> list[Any]:
    raise AssertionError("retention is measured by its loss alone")


class _Clock:
    """Seconds since the last count, by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def count(self, part: str) -> None:
        now = time.monotonic()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now


def gain(seed: Seed, name: str, digits: int | None = None) -> Comparison:
    """How much more often answers are right after GRPO than after SFT; `digits` None: all."""
    before, after = (seed.answers[stage][name] for stage in ("sft", "grpo"))
    chosen = np.full(len(before.digits), True) if digits is None else before.digits == digits
    return compare_scores(Scores(before.right[chosen], after.right[chosen]), seed=0)


def converged(seed: Seed) -> tuple[float, float, float]:
    """Validation losses of the warm start: first, best, last."""
    losses = [line["validation_loss"] for line in seed.stages["sft"].metrics
              if line.get("validation_loss") is not None]  # fmt: skip
    return losses[0], min(losses), losses[-1]
