"""What was forgotten: the examples whose loss rose most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.examples import Example, ExampleSet
from lorakit.data.questions import control_ids, last_trained_span
from lorakit.data.sources import Placed
from lorakit.evaluate.result import Forgotten
from lorakit.train.losses import ExampleLosses

NUM_SHOWN = 5
NUM_TOKENS = 64  # decoded of what was asked: more than the first words that are shown
NUM_CHARACTERS = 60


def most_forgotten(
    tokenizer: PreTrainedTokenizerBase,
    examples: ExampleSet,
    rows: Sequence[Placed],
    indices: np.ndarray,
    base: ExampleLosses,
    tuned: ExampleLosses,
    *,
    stop_ids: Sequence[int],
) -> tuple[Forgotten, ...]:
    """At most NUM_SHOWN examples that lost, worst first.

    Args:
        tokenizer: decodes how they begin.
        examples: the whole set.
        rows: the row behind each example.
        indices: int64 (E,), which examples were measured.
        base: their losses before.
        tuned: and after.
        stop_ids: tokens that end a turn.
    """
    before, after = base.nll / base.weight, tuned.nll / tuned.weight
    finite = np.isfinite(before) & np.isfinite(after)
    rise = np.where(finite, np.subtract(after, before, where=finite, out=np.zeros_like(after)), 0.0)
    control = control_ids(tokenizer)
    worst = np.argsort(-rise, kind="stable")[:NUM_SHOWN]
    return tuple(
        Forgotten(
            int(indices[place]),
            rows[indices[place]].location,
            _beginning(tokenizer, _asked(examples[int(indices[place])], control, stop_ids)),
            float(before[place]),
            float(after[place]),
        )
        for place in worst
        if rise[place] > 0
    )


def _asked(example: Example, control: Sequence[int], stop_ids: Sequence[int]) -> np.ndarray:
    """The token ids of what the last answer answers: the turn before it, or else the whole prompt;
    of plain text the text."""
    start, _ = last_trained_span(example)
    if start < 2:
        return example.input_ids
    prompt = example.input_ids[:start]
    ends = np.flatnonzero(np.isin(prompt, np.asarray(stop_ids, prompt.dtype)))
    if not len(ends):
        return prompt
    begins = np.flatnonzero(np.isin(prompt[: ends[-1]], np.asarray(control, prompt.dtype)))
    return prompt[begins[-1] if len(begins) else 0 : ends[-1]]


def _beginning(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> str:
    text = tokenizer.decode(
        ids[:NUM_TOKENS].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    text = " ".join(str(text).split())
    return text if len(text) <= NUM_CHARACTERS else text[: NUM_CHARACTERS - 1] + "\u2026"
