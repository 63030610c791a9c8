"""What the final evaluation will do, by the lengths of its rows: the passes of base and tuned, and
what else is asked. Its memory is in `evaluation.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lorakit import tasks
from lorakit.data.conversation import Conversation
from lorakit.data.examples import ExampleSet
from lorakit.data.questions import Question
from lorakit.engine.passes import Pass, lay_out
from lorakit.evaluate.choice import choice_requests
from lorakit.evaluate.drawn import draw
from lorakit.evaluate.likelihood import likelihood_passes
from lorakit.evaluate.proof import LIKE_TRAINING
from lorakit.evaluate.seen_rows import seen_rows
from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.plan.answers import asked_questions, samples_of_each
from lorakit.plan.rows import Sets
from lorakit.recipe import EvaluateSection
from lorakit.recipe.metric_names import CHOICES, WIN_RATE
from lorakit.tasks import math
from lorakit.train.least_times import MIN_ROUNDS
from lorakit.train.rates import Curve

# Questions of a set whose options are told apart, spread over it; the others take as long.
MAX_OPTIONS_READ = 100
REQUESTS_OF_A_PAIR = 2  # both orders
FORMULAS = "math"


@dataclass(frozen=True)
class Passes:
    """Forward passes; each stands for `times` of them."""

    passes: Sequence[Pass]
    times: float = 1.0


@dataclass(frozen=True)
class EvaluationWork:
    """What is done once, after training.

    Attributes:
        losses: measured with base and tuned: every set, and training rows beside in_domain.
        choices: options, scored with base and tuned.
        answers: of questions, by base and tuned; answer_tokens: of one, at most.
        num_samples: of each question besides, sampled.
        prompts: passes that read the questions, once.
        max_batch: answers that are written at a time.
        formulas: final answers that the scorer `math` compares as formulas, and not as numbers.
        left_out: what nobody knows the time of, in words.
    """

    losses: Sequence[Passes] = ()
    choices: Sequence[Passes] = ()
    answers: int = 0
    answer_tokens: int = 0
    prompts: Sequence[Pass] = ()
    max_batch: int = 1
    formulas: int = 0
    left_out: tuple[str, ...] = ()
    num_samples: int = 0


def evaluation_work(
    sets: Sets,
    wanted: EvaluateSection,
    *,
    seed: int,
    token_budget: int,
    packed: bool,
    at_a_time: int,
) -> EvaluationWork:
    """Go through the sets as the evaluation will.

    Args:
        sets: of the run; options are known where the rows behind the examples are.
        wanted: the recipe's section.
        seed: of the draws.
        token_budget: tokens of one forward pass.
        packed: whether rows share one.
        at_a_time: answers that are written together.
    """
    losses: list[Passes] = []
    choices: list[Passes] = []
    for name, examples in sets.evaluation.items():
        rows = draw(len(examples), wanted.max_examples, seed=seed)
        losses.append(Passes(_laid_out(examples, rows, token_budget, packed)))
        choices += _choices(sets, name, wanted, seed, token_budget, packed)
    losses += _seen(sets, wanted, seed, token_budget, packed)
    asked, num_samples = asked_questions(sets, wanted, seed=seed), samples_of_each(wanted)
    return EvaluationWork(
        losses,
        choices,
        len(asked),
        wanted.max_new_tokens,
        [Pass(n, 1, (n,)) for n in (len(one.prompt_ids) for one in asked)],
        at_a_time,
        2 * (1 + num_samples) * _num_formulas(sets, asked) if FORMULAS in wanted.metrics else 0,
        tuple(_left_out(sets, wanted, len(asked))),
        num_samples,
    )


def time_formulas() -> Curve:
    """{formulas: seconds} of comparing them on this machine, in a process that starts first."""
    options = tasks.ScoringOptions(None, None, 0)
    took = []
    for _ in range(1 + MIN_ROUNDS):
        began = time.perf_counter()
        math.scores([r"$\sqrt{8}$"], [r"$2\sqrt{2}$"], options)
        took.append(time.perf_counter() - began)
    first, one = took[0], min(took[1:])  # whatever disturbs, and is multiplied, only takes longer
    return Curve((1.0, 1000.0), (first, first + 999 * one))


def _left_out(sets: Sets, wanted: EvaluateSection, answers: int) -> Iterator[str]:
    """What takes a time that nobody here knows."""
    if WIN_RATE in wanted.metrics and answers:
        asked = REQUESTS_OF_A_PAIR * answers
        yield f"the judge, who is asked up to {asked:,} times"
    if wanted.lm_eval is not None:
        yield f"lm-eval's tasks ({', '.join(wanted.lm_eval.tasks)})"
    if any(metric in CHOICES for metric in wanted.metrics) and sets.tokenizer is None:
        absent = "rows behind the examples are" if sets.named is None else "tokenizer is"
        yield f"multiple choice, for the {absent} not here"


def _num_formulas(sets: Sets, asked: Sequence[Question]) -> int:
    """Right answers that are no plain numbers."""
    if sets.tokenizer is None:
        return 0
    found = (math.final_answer(str(sets.tokenizer.decode(one.reference_ids))) for one in asked)
    return sum(one is not None and math.number(one) is None for one in found)


def _laid_out(
    examples: ExampleSet, rows: np.ndarray, token_budget: int, packed: bool
) -> list[Pass]:
    return lay_out(examples, rows, micro_batch_tokens=token_budget, packed=packed)


def _seen(
    sets: Sets, wanted: EvaluateSection, seed: int, token_budget: int, packed: bool
) -> list[Passes]:
    """As many training rows as in_domain has, which tell what was learned by heart."""
    if LIKE_TRAINING not in sets.evaluation:
        return []
    like = sets.evaluation[LIKE_TRAINING]
    measured = draw(len(like), wanted.max_examples, seed=seed)
    count = min(len(sets.train), len(measured))
    if count < MIN_EXAMPLES:
        return []
    rows = draw(len(sets.train), count, seed=seed)
    if sets.named is not None:
        train = sets.named.train
        rows, _ = seen_rows(train.examples, train.meanings, like, count, seed=seed)
        return [Passes(_laid_out(train.examples, rows, token_budget, packed))]
    return [Passes(_laid_out(sets.train, rows, token_budget, packed))]


def _choices(
    sets: Sets, name: str, wanted: EvaluateSection, seed: int, token_budget: int, packed: bool
) -> list[Passes]:
    """The options of a set's questions, of some of them where there are many."""
    metrics = [metric for metric in wanted.metrics if metric in CHOICES]
    if not metrics or sets.named is None or sets.tokenizer is None:
        return []
    held_out = sets.named.evaluation[name]
    rows = draw(len(held_out.examples), wanted.max_examples, seed=seed)
    looked_at = rows[draw(len(rows), MAX_OPTIONS_READ, seed=0)].tolist()
    found = [held_out.conversations[index] for index in looked_at]
    asked = [one for one in found if isinstance(one, Conversation) and one.choices is not None]
    if not asked:
        return []
    requests = choice_requests(
        sets.tokenizer,
        asked,
        metrics,
        chat_template=held_out.chat_template,
        stop_ids=sets.named.train.stop_ids,
    )
    passes = likelihood_passes(requests, token_budget=token_budget, packed=packed)
    return [Passes(passes, len(rows) / len(looked_at))]
