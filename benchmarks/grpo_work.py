"""What `grpo_peers.py` works on: groups of random prompts, and how long their answers get.

Nothing is learned from random weights, and nothing must be: speed and memory depend on shapes and
lengths. Rollouts have lengths that are given. In a whole step every contestant draws its own, by
one rule: several tokens are end tokens, which random weights draw about as often as any other, so
that lengths are geometric and cut at the most that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

GROUPS, GROUP_SIZE = 8, 8
PROMPT_LENGTHS = (32, 128)
MEAN_SHARE = 0.3  # of the longest answer that is allowed
END_ID = 1
# Half of the answers begin so, whatever is learned, and nearly every group has both kinds: lorakit
# computes nothing for a group without variance, which would be less work.
REWARDED = r"^\d*[02468]\b"
# Answers prompts with so many tokens each, and gives the numbers of tokens.
Roller = Callable[[list[list[int]], list[int]], list[int]]


@dataclass(frozen=True)
class Work:
    """Rollouts of one cycle.

    Attributes:
        prompts: one for each group.
        lengths: of the answers, group by group.
        most: tokens that an answer may have.
    """

    prompts: list[list[int]]
    lengths: list[int]
    most: int

    @property
    def asked(self) -> list[list[int]]:
        """The prompt of each answer."""
        return [prompt for prompt in self.prompts for _ in range(GROUP_SIZE)]


def make_work(vocabulary: int, most: int, groups: int = GROUPS, seed: int = 0) -> Work:
    """Random prompts; lengths are exponential, cut at `most`, with a mean of 0.3 of it.

    Drawn in layers, one from each 1/64 of the distribution, so that a small number of lengths has
    its mean and its longest, too.
    """
    generator = np.random.default_rng(seed)
    low, high = PROMPT_LENGTHS
    prompts = [
        generator.integers(2, vocabulary, generator.integers(low, high + 1)).tolist()
        for _ in range(groups)
    ]
    count = groups * GROUP_SIZE
    quantiles = (np.arange(count) + 0.5) / count
    drawn = -np.log(1 - quantiles) / end_rate(most)
    lengths = np.clip(np.ceil(drawn), 1, most).astype(int)
    return Work(prompts, generator.permutation(lengths).tolist(), most)


def end_rate(most: int) -> float:
    """The chance to end at a token for which the mean length is 0.3 of `most`."""
    rates = np.linspace(1e-4, 1, 100_000)
    means = (1 - (1 - rates) ** most) / rates
    return float(rates[np.abs(means - MEAN_SHARE * most).argmin()])


def end_ids(vocabulary: int, most: int) -> list[int]:
    """So many end tokens that lengths have the mean they should have."""
    return list(range(END_ID, END_ID + max(1, round(vocabulary * end_rate(most)))))


def words(ids: list[int]) -> str:
    """A prompt as text, which the tokenizer turns into `ids` again."""
    return " ".join(str(token) for token in ids)


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word for each id: its number."""
    numbers = {str(token): token for token in range(2, vocabulary)}
    model = WordLevel({"<pad>": 0, "<end>": END_ID} | numbers, unk_token="<pad>")
    plain = Tokenizer(model)
    plain.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<end>", unk_token="<pad>"
    )
