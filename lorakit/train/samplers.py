"""Who answers the questions of a policy gradient: this process, or a server beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.generate import Completion, SamplingSettings, generate


@dataclass(frozen=True)
class Asked:
    """What is to be completed, and how.

    Attributes:
        prompts: token ids; those of a group are neighbours and the same.
        settings: of the sampling.
        seeds: one for each prompt.
        max_batch: the most completions that are generated at a time; None: the sampler chooses.
        stop_if_asked: called all the while; what it raises ends the sampling.
    """

    prompts: Sequence[Sequence[int]]
    settings: SamplingSettings
    seeds: Sequence[int]
    max_batch: int | None
    stop_if_asked: Callable[[], None]


# One completion for each prompt, in their order, of the policy as it stands, its adapter on.
# Log-probabilities are those at the temperature; NaN where they are not known.
Sampler = Callable[[PreTrainedModel, PreTrainedTokenizerBase, Asked], list[Completion]]


def sample_here(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Asked,
    *,
    max_dense_bytes: int | None = None,
) -> list[Completion]:
    """In this process, with the model that trains; see `Sampler`.

    Args:
        max_dense_bytes: see `generate`.
    """
    return generate(
        model,
        tokenizer,
        asked.prompts,
        asked.settings,
        seeds=asked.seeds,
        max_batch=asked.max_batch,
        max_dense_bytes=max_dense_bytes,
        on_token=lambda *_: asked.stop_if_asked(),
        description="rolling out",
    )
