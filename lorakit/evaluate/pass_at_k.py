"""pass@k and majority@k of one question, from n sampled answers.

pass@k is the unbiased estimator of Chen et al., "Evaluating Large Language Models Trained on Code"
(arXiv 2107.03374): of n answers c are right, and 1 - C(n - c, k) / C(n, k) is the share of all
choices of k answers that hold a right one. 1 - (1 - c / n)^k is too low on average.

majority@k is self-consistency (Wang et al., arXiv 2203.11171): the final answer that most of k
answers agree on. Here it is the share of all choices of k answers whose majority is right, counted
exactly, where others take the first k: like pass@k it depends on no order and wastes no answer, and
with k = n both are the same. Ties: each of t answers that tie wins 1 / t of the time. An answer
that comes to nothing has no vote; where nobody votes, nothing is right.

Both are pass@1 for k = 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb

import numpy as np


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The probability that one at least of k answers is right, estimated without bias.

    Args:
        num_samples: n.
        num_right: c, how many of them are right.
        k: at most n.
    """
    _check(num_samples, k)
    wrong = num_samples - num_right
    return 1.0 - comb(wrong, k) / comb(num_samples, k)


def majority_at_k(scores: Sequence[float], answers: Sequence[int | None], k: int) -> float:
    """The probability that the majority of k answers is right, estimated without bias.

    Args:
        scores: of n answers, 1 or 0 each. Where answers that are equal are scored differently, such
            a majority is right as often as they are.
        answers: numbers of their final answers, equal where these are; None: it has none.
        k: at most n.
    """
    _check(len(scores), k)
    votes = Counter(answers)
    silent = votes.pop(None, 0)
    right = dict.fromkeys(answers, 0.0)
    for answer, score in zip(answers, scores, strict=True):
        right[answer] += score
    won = 0.0
    for answer, count in votes.items():
        if right[answer]:
            others = [votes[other] for other in votes if other != answer]
            won += right[answer] / count * _ways_to_win(count, others, silent, k)
    return won / comb(len(scores), k)


def _check(num_samples: int, k: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(f"k is {k}; possible: 1 to {num_samples}, the answers that there are.")


def _ways_to_win(count: int, others: Sequence[int], silent: int, k: int) -> float:
    """In how many choices of k answers an answer has the most votes; ties count their share.

    Args:
        count: votes it has among all.
        others: those that each other answer has.
        silent: answers without a vote.
    """
    if k == count + sum(others) + silent:  # there is one choice
        most = max(others, default=0)
        return 0.0 if most > count else 1 / (1 + others.count(count))
    won = 0.0
    for votes in range(1, min(count, k) + 1):
        rest = k - votes  # numbers of ways are float64: below 1e300 for n up to 1000
        # ways[t, r]: choices of r answers of the others, none with more votes and t with as many.
        ways = np.zeros((rest // votes + 1, rest + 1))
        ways[0] = [float(comb(silent, r)) for r in range(rest + 1)]
        for other in others:
            ways = _with_answer(ways, other, votes)
        shares = 1 / np.arange(1, len(ways) + 1)
        won += comb(count, votes) * float(ways[:, rest] @ shares)
    return won


def _with_answer(ways: np.ndarray, count: int, votes: int) -> np.ndarray:
    """The choices with one more answer, which may have up to so many votes."""
    rest = ways.shape[1] - 1
    found = ways.copy()  # none of its answers is chosen
    for chosen in range(1, min(count, votes - 1, rest) + 1):
        found[:, chosen:] += float(comb(count, chosen)) * ways[:, : rest + 1 - chosen]
    if votes <= min(count, rest):
        found[1:, votes:] += float(comb(count, votes)) * ways[:-1, : rest + 1 - votes]
    return found
