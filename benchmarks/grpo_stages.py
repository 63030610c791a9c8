"""One seed's way through the built-in task: traces, then rewards, measured in between.

What `grpo_builtin.py` asks for; see there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lorakit
from lorakit import tasks
from lorakit.adapters.attached import adapter_disabled
from lorakit.builtin.sums import columns
from lorakit.data.prepare import Prepared, prepare_examples
from lorakit.data.questions import decoded, questions
from lorakit.data.reading import DataRules, SourceSpec
from lorakit.evaluate.before_after import compare_sets
from lorakit.evaluate.judge import Scores, compare_scores
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.statistics import Comparison
from lorakit.generate import SamplingSettings, generate
from lorakit.recipe import LoraConfig, SFTConfig
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.policy_loss import PolicyLossSettings
from lorakit.train.rewards import Reward
from lorakit.train.settings import LoopSettings

MAX_TOKENS = 64  # four digits take 46
SAMPLES = 4  # answers to each question
SETS = ("in_domain", "out_of_domain")
ADAPTER = LoraConfig(r=32, lora_alpha=32, target_modules="all-linear")
TAGS = r"\A<think>[^<]*</think><answer>\d+</answer>\Z"
CARRY = re.compile(r"\d\+\d\+1=")  # a column with what the one before it left over
SCORING = tasks.ScoringOptions(regex=TAGS)
MARGIN = 0.1  # nats per token that retention may lose, as in recipes/demo.yaml


@dataclass(frozen=True)
class Answers:
    """What one policy answered to a set of E questions, SAMPLES times each.

    Attributes:
        digits: (E,), of the numbers.
        right: (E,), share of the samples that are right.
        greedy: (E,), whether the most probable answer is: 0 or 1.
        carries: of the samples to sums that need a carry, the share that carries; None here and
            below: there is none.
        right_carrying: of those, the share that is right.
        right_without: of the samples to sums that need no carry, the share that is right.
    """

    digits: list[int]
    right: list[float]
    greedy: list[float]
    carries: float | None
    right_carrying: float | None
    right_without: float | None

    def of_digits(self, digits: int | None) -> tuple[np.ndarray, np.ndarray]:
        """`right` and `greedy` of the numbers of so many digits; None: all."""
        chosen = [digits in (None, one) for one in self.digits]
        return np.array(self.right)[chosen], np.array(self.greedy)[chosen]


@dataclass(frozen=True)
class Retention:
    """How the loss on what the base could do before changed, in nats per token."""

    difference: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Seed:
    """One seed's way.

    Attributes:
        metrics: {"sft", "grpo": the lines that were logged}.
        best_step: of the warm start, whose weights were kept.
        answers: {"base", "sft", "grpo": {set: answers}}.
        retention: {"sft", "grpo": against the base}.
        seconds: of each part, on the wall; `processor` is all of it in seconds of processor time.
    """

    metrics: dict[str, list[dict[str, Any]]]
    best_step: int | None
    answers: dict[str, dict[str, Answers]]
    retention: dict[str, Retention]
    seconds: dict[str, float]

    def write(self, path: Path) -> None:
        """Keep it for later."""
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Seed:
        """What `write` kept."""
        values = json.loads(path.read_text("utf-8"))
        answers = {
            stage: {name: Answers(**one) for name, one in sets.items()}
            for stage, sets in values.pop("answers").items()
        }
        kept = {stage: Retention(**one) for stage, one in values.pop("retention").items()}
        return cls(**values, answers=answers, retention=kept)


def one_seed(seed: int, *, steps: int | None = None, asked: int | None = None) -> Seed:
    """Traces, then rewards; measured before, in between and after.

    Args:
        steps: of each stage at most, to try the script out; None: as many as it takes.
        asked: questions of each set, likewise; None: all.
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
            name: answers_of(model, tokenizer, sets[name], seed=seed, asked=asked) for name in SETS
        }
        if stage != "base":
            result = compare_sets(
                model, tokenizer, kept, measures, _nothing, stop_ids=stop_ids,
                token_budget=4096, packed=True,
            )["retention"]  # fmt: skip
            change = result.metrics["loss"]
            retention[stage] = Retention(change.difference, *change.interval, result.verdict)
        clock.count("measuring")

    with adapter_disabled(model):
        measure("base")
    few = {} if steps is None else {"max_steps": steps}
    general = SourceSpec("builtin:general", weight=0.25)
    traces = lorakit.train_sft(
        model,
        tokenizer,
        [SourceSpec("builtin:sums_traces"), general],
        sft_config(seed, **few),
        validation="builtin:sums_validation",
    )
    clock.count("sft")
    measure("sft")
    rewards = train_grpo(
        model,
        tokenizer,
        sets["train"].examples,
        grpo_loop(seed, **few),
        grpo_settings(),
        stop_ids=stop_ids,
    )
    clock.count("grpo")
    measure("grpo")
    clock.seconds["processor"] = time.process_time() - processor
    metrics = {"sft": traces.metrics, "grpo": rewards.metrics}
    return Seed(metrics, traces.best_step, answers, retention, clock.seconds)


def sft_config(seed: int, **options: Any) -> SFTConfig:
    """The warm start: it ends when three validations in a row are not lower than the best by more
    than its threshold, or after its epochs."""
    chosen: dict[str, Any] = {
        "format": "messages",
        "num_train_epochs": 6,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "adam_beta2": 0.95,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.03,
        "eval_steps": 25,
        "early_stopping_patience": 3,
        "early_stopping_threshold": 5e-4,
        "logging_steps": 10,
        "seed": seed,
    }
    if "max_steps" in options:
        del chosen["num_train_epochs"]  # beside it they could not take effect
    return SFTConfig(**(chosen | options))


def grpo_loop(seed: int, **options: Any) -> LoopSettings:
    """The loop of the policy gradient; 16 questions a step, 8 answers to each."""
    chosen: dict[str, Any] = {
        "max_steps": 36,
        "batch_size": 128,
        "learning_rate": 5e-4,
        "lr_scheduler_type": "constant",
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Prepared,
    *,
    seed: int,
    asked: int | None = None,
) -> Answers:
    """Ask the first questions of a set, or all of them, and score what comes."""
    count = len(held_out.examples) if asked is None else asked
    chosen = questions(held_out.examples, range(count), held_out.stop_ids)
    references = [decoded(tokenizer, one.reference_ids) for one in chosen]

    def right(samples: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Whether answers are right, and whether they carry: bool (E, samples) each."""
        settings = SamplingSettings(
            max_new_tokens=MAX_TOKENS,
            temperature=temperature,
            stop_ids=held_out.stop_ids,
            seed=seed,
        )
        prompts = [one.prompt_ids for one in chosen for _ in range(samples)]
        texts = [one.text for one in generate(model, tokenizer, prompts, settings, max_batch=128)]
        wanted = [one for one in references for _ in range(samples)]
        scores = tasks.scorer("math").scores(texts, wanted, SCORING)
        ways = np.array([CARRY.search(text) is not None for text in texts])
        return scores.astype(bool).reshape(-1, samples), ways.reshape(-1, samples)

    sampled, ways = right(SAMPLES, 1.0)
    greedy, _ = right(1, 0.0)
    rows = [held_out.rows[index].values for index in range(count)]
    needed = np.array([needs_carry(row["messages"][0]["content"]) for row in rows])
    return Answers(
        [int(row["digits"]) for row in rows],
        sampled.mean(axis=1).tolist(),
        greedy[:, 0].astype(float).tolist(),
        _share(ways[needed]),
        _share(sampled[ways & needed[:, None]]),
        _share(sampled[~needed]),
    )


def _share(flags: np.ndarray) -> float | None:
    return float(flags.mean()) if flags.size else None


def needs_carry(question: str) -> bool:
    """Whether the sum that is asked for comes out wrong without carrying."""
    left, right = map(int, re.findall(r"\d+", question))
    return columns(left, right, carries=False)[1] != left + right


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
    before, after = (seed.answers[stage][name].of_digits(digits)[0] for stage in ("sft", "grpo"))
    return compare_scores(Scores(before, after), seed=0)


def validation_losses(seed: Seed) -> list[float]:
    """Of the warm start, in order."""
    losses = (line.get("validation_loss") for line in seed.metrics["sft"])
    return [loss for loss in losses if loss is not None]
