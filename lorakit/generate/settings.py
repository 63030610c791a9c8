"""What to generate, and what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lorakit.errors import InputError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is chosen, and when a sequence ends.

    Attributes:
        max_new_tokens: the most tokens of an answer.
        temperature: logits are divided by it; 0 takes the most probable token.
        top_p: of the tokens that `top_k` leaves, the fewest whose probabilities reach this sum.
        top_k: only so many tokens, the most probable ones; None: all.
        min_p: only tokens that are at least so many times as probable as the most probable one;
            None: all.
        stop_strings: text that ends a sequence, and is cut off.
        stop_ids: tokens that end a sequence, beside the model's own end tokens.
        ignore_eos: the model's own end tokens are tokens like any other.
        tempered_logprobs: log-probabilities are those at `temperature`, which must be above 0: of
            the policy that a policy gradient is of. `top_p`, `top_k` and `min_p` leave no mark on
            them.
        seed: prompt number i draws with a seed made of this and i.

    Raises:
        InputError: a value that cannot work; all of them are named.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float | None = None
    stop_strings: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    tempered_logprobs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        faults = []
        if self.max_new_tokens < 1:
            faults.append(f"max_new_tokens {self.max_new_tokens!r} (possible: 1 or more)")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            faults.append(f"temperature {self.temperature!r} (possible: 0 or more, finite)")
        if self.tempered_logprobs and self.temperature == 0:
            faults.append("tempered_logprobs with temperature 0 (possible: a temperature above 0)")
        if not 0 < self.top_p <= 1:
            faults.append(f"top_p {self.top_p!r} (possible: above 0, up to 1)")
        if self.top_k is not None and self.top_k < 1:
            faults.append(f"top_k {self.top_k!r} (possible: 1 or more, or None for all tokens)")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            faults.append(f"min_p {self.min_p!r} (possible: 0 to 1, or None for all tokens)")
        if isinstance(self.stop_strings, str):
            faults.append(f"stop_strings {self.stop_strings!r} (possible: a tuple of strings)")
        elif "" in self.stop_strings:
            faults.append("an empty stop string, which every text ends with (possible: text)")
        if faults:
            raise InputError(f"sampling settings: {'; '.join(faults)}. Change these values.")


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        token_ids: as drawn, a stop token that ended it included.
        logprobs: float32 (T,), natural logarithm of each token's probability under the model's own
            distribution: temperature 1 (or that of the settings, with `tempered_logprobs`), no
            token left out.
        text: decoded without special tokens and without the stop token, cut before the stop string.
        finish_reason: "stop": a stop token or stop string; "length": `max_new_tokens`, or the
            model's context.
    """

    token_ids: list[int]
    logprobs: np.ndarray
    text: str
    finish_reason: FinishReason
