"""Sampled answers of base and tuned: pass@k and majority@k, beside what they answer greedily.

Q questions, N sampled answers of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit import kernels, tasks
from lorakit.adapters.attached import adapter_disabled
from lorakit.data.questions import Question
from lorakit.errors import RecipeError
from lorakit.evaluate.answers import Answer, Answered, Truncated, num_truncated
from lorakit.evaluate.judge import Scores
from lorakit.evaluate.pass_at_k import majority_at_k, pass_at_k
from lorakit.evaluate.result import SampledAnswer
from lorakit.recipe.metric_names import sampled_metrics
from lorakit.recipe.sections.sampling import SamplingSection


class Sampler(Protocol):
    """Samples answers with the model as it stands."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], description: str, *, seeds: Sequence[int]
    ) -> Sequence[Answer]:
        """One answer to each prompt, in order; the same seed gives the same, whatever else runs."""


@dataclass(frozen=True)
class Sampling:
    """What sampled answers are measured by.

    Attributes:
        num_samples: N.
        pass_at, majority_at: the k of each, at most N.
        scorers: names of `tasks` that say right or wrong.
        voters: those of them that know final answers, where `majority_at` names any k.
    """

    num_samples: int
    pass_at: tuple[int, ...]
    majority_at: tuple[int, ...]
    scorers: tuple[str, ...]
    voters: tuple[str, ...] = ()

    @staticmethod
    def from_section(section: SamplingSection, metrics: Sequence[str]) -> Sampling:
        """What a recipe asks for.

        Args:
            metrics: those of `evaluate.metrics`.

        Raises:
            RecipeError: by none of them, or not by those that are named, answers are right or
                wrong, or have a majority.
        """
        named = [name for name in dict.fromkeys(metrics) if name in tasks.names()]
        scorers = _fit(section.scorers, named, RIGHT_OR_WRONG)
        voters: list[str] = []
        if section.majority_at:
            voters = _fit(section.scorers, scorers, FINAL_ANSWER)
        return Sampling(
            section.num_samples,
            tuple(section.pass_at),
            tuple(section.majority_at),
            tuple(scorers),
            tuple(voters),
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what is measured."""
        return tuple(name for scorer in self.scorers for name in self.metrics_of(scorer))

    def metrics_of(self, scorer: str) -> tuple[str, ...]:
        """Those by one of the scorers."""
        majority_at = self.majority_at if scorer in self.voters else ()
        return sampled_metrics(scorer, self.pass_at, majority_at)


@dataclass(frozen=True)
class _Asked:
    """What is asked of a scorer, and the words for it."""

    has: Callable[[tasks.Scorer], bool]
    words: str


RIGHT_OR_WRONG = _Asked(
    lambda scorer: scorer.IS_RIGHT_OR_WRONG, "says right or wrong, as pass@k needs"
)
FINAL_ANSWER = _Asked(
    lambda scorer: scorer.HAS_FINAL_ANSWER,
    "knows final answers that others may agree on, as evaluate.sampling.majority_at needs",
)


def _fit(wanted: Sequence[str] | None, named: Sequence[str], asked: _Asked) -> list[str]:
    """The scorers that have what is asked: of those that are wanted all must, else one at least."""
    fit = [name for name in named if asked.has(tasks.scorer(name))]
    unfit = [name for name in wanted or () if name not in fit]
    if fit and not unfit:
        return fit if wanted is None else list(wanted)
    possible = ", ".join(name for name in tasks.names() if asked.has(tasks.scorer(name)))
    if unfit:
        raise RecipeError(
            f"evaluate.sampling.scorers names {', '.join(map(repr, unfit))}, which is none that "
            f"{asked.words}; possible: {possible}. Remove it."
        )
    raise RecipeError(
        f"evaluate.sampling: of evaluate.metrics ({', '.join(named) or 'no scorer'}) none "
        f"{asked.words}; possible: {possible}. Add one to evaluate.metrics."
    )


def with_samples(
    answered: Answered,
    model: PreTrainedModel,
    asked: Sequence[Question],
    sampler: Sampler,
    sampling: Sampling,
    options: tasks.ScoringOptions,
    *,
    seed: int,
    name: str,
) -> Answered:
    """The answers with what sampled ones are worth beside them.

    Base and tuned are sampled with the same random numbers, answer by answer: where they are the
    same model, so are their answers.

    Args:
        answered: greedy answers of the same questions.
        model: with an adapter attached and switched on.
        asked: the questions.
        sampler: samples answers.
        sampling: how many, and what they are measured by.
        options: of the scorers.
        seed: of the run.
        name: of the set.
    """
    count = sampling.num_samples
    prompts = [one.prompt_ids for one in asked for _ in range(count)]
    seeds = sample_seeds([one.index for one in asked], count, seed=seed, name=name)
    tuned = sampler(prompts, f"{name}: tuned, {count} sampled answers", seeds=seeds)
    with adapter_disabled(model):
        base = sampler(prompts, f"{name}: base, {count} sampled answers", seeds=seeds)
    references = [one.reference for one in answered.examples for _ in range(count)]
    options = replace(options, set_name=f"{name}, sampled", knows_references=True)
    before, after = (_measured(one, references, sampling, options) for one in (base, tuned))
    scores = {
        metric: Scores(before.metrics[metric], after.metrics[metric], are_shares=True)
        for metric in sampling.metrics
    }
    examples = tuple(
        replace(
            example,
            scores=example.scores
            | {
                metric: (float(one.base[place]), float(one.tuned[place]))
                for metric, one in scores.items()
            },
            samples=(before.samples[place], after.samples[place]),
        )
        for place, example in enumerate(answered.examples)
    )
    cut = Truncated(len(prompts), num_truncated(base), num_truncated(tuned))
    notes = (*answered.notes, *cut.notes(" (sampled)"))
    return replace(answered, examples=examples, scores=answered.scores | scores, notes=notes)


def sample_seeds(indices: Sequence[int], count: int, *, seed: int, name: str) -> list[int]:
    """The seeds of sampled answers: a function of the run's, the set, the example and the place.

    Args:
        indices: of the examples in their set.
        count: answers of each.
        seed: of the run.
        name: of the set.

    Returns:
        64 bits each as int64, those of one example together.
    """
    index_Q1, place_N = torch.tensor(indices)[:, None], torch.arange(count)
    keys_QN = kernels.mix_keys(seed, kernels.module_key(name), index_Q1, place_N)
    return [int(key) for key in keys_QN.flatten().tolist()]


@dataclass(frozen=True)
class _Measured:
    """Sampled answers of one model.

    Attributes:
        metrics: float64 (Q,) each.
        samples: N for each question.
    """

    metrics: dict[str, np.ndarray]
    samples: list[tuple[SampledAnswer, ...]]


def _measured(
    answers: Sequence[Answer],
    references: Sequence[str],
    sampling: Sampling,
    options: tasks.ScoringOptions,
) -> _Measured:
    """Score every answer, and what those of a question are worth together."""
    count = sampling.num_samples
    texts = [answer.text for answer in answers]
    groups = [texts[start : start + count] for start in range(0, len(texts), count)]
    metrics: dict[str, np.ndarray] = {}
    scores_QN: dict[str, np.ndarray] = {}
    for scorer in sampling.scorers:
        found = tasks.scorer(scorer).scores(texts, references, options)
        scores_QN[scorer] = found.reshape(-1, count)
        columns = [_passes(scores_QN[scorer], k) for k in sampling.pass_at]
        if scorer in sampling.voters:
            votes = [tasks.voter(scorer).same_answers(group) for group in groups]
            columns += [_majorities(scores_QN[scorer], votes, k) for k in sampling.majority_at]
        metrics |= dict(zip(sampling.metrics_of(scorer), columns, strict=True))
    samples = [
        tuple(
            SampledAnswer(text, {name: float(one[q, n]) for name, one in scores_QN.items()})
            for n, text in enumerate(group)
        )
        for q, group in enumerate(groups)
    ]
    return _Measured(metrics, samples)


def _passes(scores_QN: np.ndarray, k: int) -> np.ndarray:
    return np.array([pass_at_k(len(scores), int(scores.sum()), k) for scores in scores_QN])


def _majorities(scores_QN: np.ndarray, votes: Sequence[list[int | None]], k: int) -> np.ndarray:
    pairs = zip(scores_QN.tolist(), votes, strict=True)
    return np.array([majority_at_k(scores, answers, k) for scores, answers in pairs])
