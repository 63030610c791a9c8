"""Multiple choice by log-likelihood: the most probable option is the model's answer.

Nothing is generated. For rows with options (format `multiple_choice`) there are four accuracies:

    choice              which letter the model writes, asked with the lettered options as in
                        training: lm-eval's `acc` on tasks like MMLU
    choice_text         which option's text it writes, asked without the options: `acc` on ARC
    choice_text_bytes   the same, log-likelihood divided by the bytes of the text: `acc_norm`
    choice_text_tokens  the same, divided by its tokens

lm-eval's `acc_norm` divides by characters, which is the same for ASCII. Of letters as many tokens
are compared as tell them apart ("1" against "10" needs two), so that no letter is the beginning of
another one, and whether a full stop follows does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attached import adapter_disabled
from lorakit.data.conversation import Choices, Conversation
from lorakit.data.questions import question
from lorakit.data.render import Renderer
from lorakit.evaluate.judge import Scores
from lorakit.evaluate.likelihood import Request, likelihoods

LETTER = "choice"


@dataclass(frozen=True)
class Asked:
    """A question with its options as token ids.

    Attributes:
        options: a request each, in the order of the options.
        num_bytes: of each option's text.
        right: which one is right.
    """

    options: tuple[Request, ...]
    num_bytes: tuple[int, ...]
    right: int


def choice_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    metrics: Sequence[str],
    *,
    chat_template: str,
    stop_ids: Sequence[int],
    token_budget: int,
    packed: bool,
    description: str,
) -> dict[str, Scores]:
    """Whether base and tuned choose the right option: 1 or 0 for each row, in order.

    Args:
        model: with an adapter attached and switched on.
        tokenizer: of the model.
        conversations: one or more, each with `choices`.
        metrics: names out of `metric_names.CHOICES`.
        chat_template: Jinja source that the model is asked in.
        stop_ids: tokens that end an answer, which are no part of an option.
        token_budget: tokens of one forward pass.
        packed: whether the family may be packed.
        description: of the progress bars.

    Raises:
        DataError: the template refuses a question.
    """
    renderer = Renderer(tokenizer, trained="completion", chat_template=chat_template)
    scores: dict[str, Scores] = {}
    for by_letter in (True, False):
        wanted = [name for name in metrics if (name == LETTER) == by_letter]
        if not wanted:
            continue
        asked = [_asked(renderer, one, stop_ids, by_letter=by_letter) for one in conversations]
        requests = [option for one in asked for option in one.options]

        def measure(who: str, requests: Sequence[Request] = requests) -> np.ndarray:
            found = likelihoods(
                model,
                requests,
                token_budget=token_budget,
                packed=packed,
                description=f"{description}: {who} choices",
            )
            return np.array([one.logprob for one in found])

        tuned = measure("tuned")
        with adapter_disabled(model):
            base = measure("base")
        scores |= {
            name: Scores(
                _is_right(asked, base, name),
                _is_right(asked, tuned, name),
                confidences=(_confidence(asked, base, name), _confidence(asked, tuned, name)),
            )
            for name in wanted
        }
    return scores


def choice_requests(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    metrics: Sequence[str],
    *,
    chat_template: str,
    stop_ids: Sequence[int],
) -> list[Request]:
    """Every option that `choice_scores` scores with a model, with arguments as there."""
    renderer = Renderer(tokenizer, trained="completion", chat_template=chat_template)
    ways = {name == LETTER for name in metrics}
    return [
        option
        for by_letter in sorted(ways)
        for one in conversations
        for option in _asked(renderer, one, stop_ids, by_letter=by_letter).options
    ]


def _asked(
    renderer: Renderer, conversation: Conversation, stop_ids: Sequence[int], *, by_letter: bool
) -> Asked:
    choices = conversation.choices
    assert choices is not None
    told = conversation if by_letter else _without_options(conversation, choices)
    texts = [f"{key}." for key in choices.options] if by_letter else list(choices.options.values())
    options = [_option(renderer, told, text, stop_ids) for text in texts]
    if by_letter:
        count = _telling_apart([option.continuation for option in options])
        options = [replace(one, continuation=one.continuation[:count]) for one in options]
    return Asked(
        tuple(options),
        tuple(len(text.encode()) for text in texts),
        list(choices.options).index(choices.right),
    )


def _without_options(conversation: Conversation, choices: Choices) -> Conversation:
    *before, user, assistant = conversation.messages
    return replace(
        conversation, messages=(*before, user | {"content": choices.question}, assistant)
    )


def _option(
    renderer: Renderer, conversation: Conversation, text: str, stop_ids: Sequence[int]
) -> Request:
    """What is given, and what would be written, as in training."""
    *before, assistant = conversation.messages
    answered = replace(conversation, messages=(*before, assistant | {"content": text}))
    asked = question(renderer.render(answered), 0, stop_ids)
    assert asked is not None and asked.reference_ids  # a turn of the user, and a text
    return Request(asked.prompt_ids, asked.reference_ids)


def _telling_apart(options: Sequence[Sequence[int]]) -> int:
    """How many tokens of each option it takes until no two are alike."""
    longest = max(map(len, options))
    starts = range(1, longest + 1)
    return next(
        (n for n in starts if len({tuple(o[:n]) for o in options}) == len(options)), longest
    )


def _is_right(asked: Sequence[Asked], logprobs: np.ndarray, name: str) -> np.ndarray:
    """float64 (questions,): 1 where the most probable option is the right one; of ties the first.

    Args:
        logprobs: float64, of every option of every question, in order.
    """
    values = _values(asked, logprobs, name)
    return np.array(
        [float(int(v.argmax()) == one.right) for v, one in zip(values, asked, strict=True)]
    )


def _confidence(asked: Sequence[Asked], logprobs: np.ndarray, name: str) -> np.ndarray:
    """float64 (questions,): the share of the chosen option in the probability of all options."""
    values = _values(asked, logprobs, name)
    return np.array([1 / np.exp(v - v.max()).sum() for v in values])


def _values(asked: Sequence[Asked], logprobs: np.ndarray, name: str) -> list[np.ndarray]:
    """What the options of each question are chosen by."""
    ends = np.cumsum([len(one.options) for one in asked])
    return [
        part / _lengths(one)[name]
        for part, one in zip(np.split(logprobs, ends[:-1]), asked, strict=True)
    ]


def _lengths(one: Asked) -> Mapping[str, np.ndarray]:
    ones = np.ones(len(one.options))
    return {
        LETTER: ones,
        "choice_text": ones,
        "choice_text_bytes": np.array(one.num_bytes, np.float64),
        "choice_text_tokens": np.array([len(o.continuation) for o in one.options], np.float64),
    }
