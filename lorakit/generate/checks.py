"""What is wrong with a request to generate, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.data.named_sets import context_of
from lorakit.errors import InputError
from lorakit.generate.settings import SamplingSettings


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The model's own end tokens: its generation config's, and its tokenizer's."""
    config = model.generation_config
    named = None if config is None else config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    found = {token for token in (*listed, tokenizer.eos_token_id) if token is not None}
    return tuple(sorted(found))


def check_request(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
    *,
    seeds: Sequence[int] | None,
    max_new_tokens: Sequence[int] | None,
    adapters: Sequence[str | None] | None,
    max_batch: int | None,
) -> list[int]:
    """Check the arguments of `generate`.

    Returns:
        For each prompt, the most tokens its answer may have.

    Raises:
        InputError: naming what cannot work.
    """
    if max_batch is not None and max_batch < 1:
        raise InputError(
            f"max_batch is {max_batch!r}; possible: 1 or more sequences at a time. Change it."
        )
    given = {"seeds": seeds, "max_new_tokens": max_new_tokens, "adapters": adapters}
    for name, values in given.items():
        if values is not None and len(values) != len(prompts):
            raise InputError(
                f"{len(values)} {name} for {len(prompts)} prompts; possible: one for each prompt, "
                "in the same order. Give as many, or none."
            )
    asked = [settings.max_new_tokens] * len(prompts)
    if max_new_tokens is not None:
        asked = list(max_new_tokens)
        if min(asked, default=1) < 1:
            raise InputError(
                f"max_new_tokens has {min(asked)}; possible: 1 or more. Leave such prompts out."
            )
    _check_ids(prompts, settings, model.config.get_text_config().vocab_size)
    context = context_of(model.config)
    return asked if context is None else _limits(prompts, asked, context)


def _check_ids(
    prompts: Sequence[Sequence[int]], settings: SamplingSettings, vocabulary: int
) -> None:
    for index, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise InputError(
                f"prompt {index} is empty; possible: one token or more, such as the tokenizer's "
                "start token. Give it one, or leave it out."
            )
        wrong = max(prompt) if max(prompt) >= vocabulary else min(prompt)
        if not 0 <= wrong < vocabulary:
            raise InputError(
                f"prompt {index} has token {wrong}; possible: 0 to {vocabulary - 1}. Encode it "
                "with the model's own tokenizer."
            )
    strange = [token for token in settings.stop_ids if not 0 <= token < vocabulary]
    if strange:
        raise InputError(
            f"stop_ids {strange} are no tokens of this model; possible: 0 to {vocabulary - 1}. "
            "Look them up in the model's own tokenizer."
        )


def _limits(prompts: Sequence[Sequence[int]], asked: Sequence[int], context: int) -> list[int]:
    limits = []
    for index, (prompt, most) in enumerate(zip(prompts, asked, strict=True)):
        if most > context:
            raise InputError(
                f"max_new_tokens {most} is more than the model's context; possible: up to "
                f"{context} tokens, prompt included. Lower max_new_tokens."
            )
        room = context - len(prompt)
        if room < 1:
            raise InputError(
                f"prompt {index} has {len(prompt)} tokens, which leaves no room for an answer; "
                f"possible: up to {context - 1} tokens with this model. Shorten the prompt."
            )
        limits.append(min(most, room))
    return limits
