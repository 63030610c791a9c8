"""Samples of what is rolled out: `RUN/completions.jsonl`, and words for a terminal.

Of each generation the best, a typical and the worst completion of one question, the first (their
order is drawn by the seed) whose rewards differ, or where there is none the first: {"step",
"label", "prompt", "reference", "completion", "reward", "rewards", "advantage"}, `step` the first
that learned from it, `label` "best", "typical" (the median) or "worst", `reward` null where no
function had an opinion. Of equal texts the first of these is there.

Where a reward fails, all completions of its generation are there, labelled "not scored", until the
run goes on from the checkpoint: "reward" and "advantage" are null, and so are those of `rewards`
that were not given yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lorakit.data.questions import decoded, decoded_prompts
from lorakit.errors import printable
from lorakit.train.rollouts import Rollouts

NAME = "completions.jsonl"
SHOWN_CHARACTERS = 300
NOT_SCORED = "not scored"


def samples(
    tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts, names: Sequence[str]
) -> list[dict[str, Any]]:
    """One line for each sample, without its step.

    Args:
        names: of the rewards.
    """
    size = len(rollouts) // len(rollouts.questions)
    place = int(np.argmax(rollouts.advantages.varies[::size]))  # of none: the first
    group = place * size + np.arange(size)
    order = group[np.argsort(-np.nan_to_num(rollouts.advantages.rewards[group]), kind="stable")]
    question = rollouts.questions[place]
    (prompt,) = decoded_prompts(tokenizer, [question.prompt_ids])
    found: dict[str, dict[str, Any]] = {}
    for label, rank in (("best", 0), ("worst", -1), ("typical", size // 2)):
        member = int(order[rank])
        told = _told(tokenizer, rollouts, member, prompt, names)
        if any(told["completion"] == one["completion"] for one in found.values()):
            continue
        found[label] = {"label": label} | told
    return [found[label] for label in ("best", "typical", "worst") if label in found]


def not_scored(
    tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts, names: Sequence[str]
) -> list[dict[str, Any]]:
    """One line for each completion of a generation whose rewards are not all there."""
    prompts = decoded_prompts(tokenizer, [one.prompt_ids for one in rollouts.questions])
    return [
        {"label": NOT_SCORED}
        | _told(tokenizer, rollouts, member, prompts[rollouts.place(member)], names)
        for member in range(len(rollouts))
    ]


def _told(
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Rollouts,
    member: int,
    prompt: str,
    names: Sequence[str],
) -> dict[str, Any]:
    """A completion, as far as it is weighed."""
    scores = zip(
        names, rollouts.rewards[member].tolist(), rollouts.scored[member].tolist(), strict=True
    )
    weighed = rollouts.weighed
    return {
        "prompt": prompt,
        "reference": decoded(tokenizer, rollouts.question(member).reference_ids),
        "completion": decoded(tokenizer, rollouts.token_ids[rollouts.span(member)].tolist()),
        "reward": None if weighed is None else _known(float(weighed.rewards[member])),
        "rewards": {name: _known(value) if there else None for name, value, there in scores},
        "advantage": None if weighed is None else float(weighed.advantages[member]),
    }


def in_words(lines: Sequence[Mapping[str, Any]]) -> str:
    """The samples of a generation for a terminal."""
    said = [f"  asked: {_shown(lines[0]['prompt'])}"]
    for line in lines:
        parts = ", ".join(
            f"{name} {'no opinion' if value is None else f'{value:.3g}'}"
            for name, value in line["rewards"].items()
        )
        reward = "no reward" if line["reward"] is None else f"reward {line['reward']:.3f}"
        said.append(f"  {line['label']}, {reward} ({parts}): {_shown(line['completion'])}")
    return "\n".join(said)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(text: str) -> str:
    """On one line, fit for a terminal, without the middle of a long text."""
    plain = printable(" ".join(text.split()))
    if len(plain) <= SHOWN_CHARACTERS:
        return plain
    half = SHOWN_CHARACTERS // 2
    return f"{plain[:half]} [...] {plain[-half:]}"
