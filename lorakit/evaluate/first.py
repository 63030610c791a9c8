"""The worst of the final evaluation before training: what does not fit shows now, not at the end.

Its largest passes are made (`worst.py`) and their results thrown away. Nothing of it stays: no
parameter, mode or random number is another one afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from transformers import PreTrainedModel

from lorakit.data.examples import ExampleSet, some_examples
from lorakit.data.named_sets import context_of
from lorakit.data.questions import last_trained_span
from lorakit.evaluate.likelihood import Request, likelihoods
from lorakit.evaluate.token_distributions import both_distributions
from lorakit.evaluate.worst import TRAIN, LossPass, WorstEvaluation, worst_evaluation
from lorakit.generate.at_a_time import AnswerRoom
from lorakit.generate.longest import longest_passes
from lorakit.recipe import EvaluateSection
from lorakit.train.worst_first import same_random_numbers, told_of_refusal

log = logging.getLogger(__name__)


def run_evaluation_first(
    model: PreTrainedModel,
    sets: Mapping[str, ExampleSet],
    train: ExampleSet,
    wanted: EvaluateSection,
    *,
    seed: int,
    token_budget: int,
    packed: bool,
) -> None:
    """Take the memory that the evaluation will take at its worst.

    Args:
        model: with its adapter attached, not in training mode.
        sets: {name: examples} as they will be measured.
        train: the training set.
        wanted, seed, token_budget, packed: see `worst_evaluation`.

    Raises:
        RunError: it does not fit; the message says what to change.
    """
    worst = worst_evaluation(
        sets,
        train,
        wanted,
        AnswerRoom.here(model, max_new_tokens=wanted.max_new_tokens, given=wanted.max_batch),
        seed=seed,
        token_budget=token_budget,
        packed=packed,
    )
    if worst is None:
        return
    log.info("first the largest passes of the evaluation, to see that they fit")
    with same_random_numbers(model.device):
        for one in worst.losses:
            of_set = train if one.set_name == TRAIN else sets[one.set_name]
            _measure(model, one, of_set, worst, token_budget)
        if worst.prompts:
            _answer(model, worst, wanted)


def _measure(
    model: PreTrainedModel,
    one: LossPass,
    of_set: ExampleSet,
    worst: WorstEvaluation,
    token_budget: int,
) -> None:
    examples = some_examples(of_set, np.array(one.rows))
    with _told(f"pass of the evaluation (losses of {one.set_name})", one.lengths, token_budget):
        both_distributions(
            model,
            examples,
            with_kl=one.with_kl,
            token_budget=token_budget,
            packed=worst.packed,
            description=f"the largest of {one.set_name}",
        )
        if worst.choices and one is worst.losses[0]:
            requests = []
            for example in (examples[place] for place in range(len(examples))):
                start, end = last_trained_span(example)
                ids = example.input_ids.tolist()
                requests.append(Request(ids[:start], ids[start:end]))
            likelihoods(
                model,
                requests,
                token_budget=token_budget,
                packed=worst.packed,
                description="the largest choices",
            )


def _answer(model: PreTrainedModel, worst: WorstEvaluation, wanted: EvaluateSection) -> None:
    context = context_of(model.config) or wanted.max_new_tokens
    max_new_tokens = min(wanted.max_new_tokens, context)
    longest = max(map(len, worst.prompts))
    at_once = min(worst.at_a_time, len(worst.prompts))
    what = (
        f"{at_once} answers of the evaluation at a time, with {max_new_tokens} new tokens and the "
        f"longest prompt of {longest}, do"
    )
    advice = f"evaluate.max_batch: {max(1, at_once // 4)}; evaluate.max_new_tokens below "
    advice += f"{max_new_tokens}; base.quantization: nf4 (if it is not yet)"
    with told_of_refusal(what, advice):
        for _ in longest_passes(
            model,
            worst.prompts,
            max_new_tokens,
            max_batch=worst.at_a_time,
            max_dense_bytes=worst.dense_bytes,
            sampled=worst.sampled,
        ):
            pass


@contextmanager
def _told(what: str, lengths: tuple[int, ...], token_budget: int) -> Iterator[None]:
    longest, found = max(lengths), []
    if token_budget > longest:
        found.append(f"train.micro_batch_tokens: {max(longest, token_budget // 2)}")
    found += ["base.quantization: nf4 (if it is not yet)", f"data.max_length below {longest}"]
    told = f"the largest {what}, of {sum(lengths)} tokens in {len(lengths)} examples, does"
    with told_of_refusal(told, "; ".join(found)):
        yield
