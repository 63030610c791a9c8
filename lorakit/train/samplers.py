"""Who answers the questions of a policy gradient: this process, or a server beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.generate import Completion, SamplingSettings, generate


class Sampler(Protocol):
    """Completes prompts with the policy as it stands, its adapter on."""

    def __call__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seeds: Sequence[int],
        max_batch: int,
        stop_if_asked: Callable[[], None],
    ) -> list[Completion]:
        """One completion for each prompt, in their order.

        Args:
            prompts: token ids; those of a group are neighbours and the same.
            seeds: one for each prompt.
            max_batch: the most completions that are generated at a time.
            stop_if_asked: called all the while; what it raises ends the sampling.

        Returns:
            Their log-probabilities are those at the temperature; NaN where not known.
        """


def sample_here(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
    *,
    seeds: Sequence[int],
    max_batch: int,
    stop_if_asked: Callable[[], None],
) -> list[Completion]:
    """In this process, with the model that trains; see `Sampler`."""
    return generate(
        model,
        tokenizer,
        prompts,
        settings,
        seeds=seeds,
        max_batch=max_batch,
        on_token=lambda *_: stop_if_asked(),
        description="rolling out",
    )
