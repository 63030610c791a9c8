"""The passes of `generate` that take the most memory, and no others.

For who wants to know beforehand whether answers fit: run on a model they take what answers would
take if none ended early, in a few passes instead of one for each token; run on tensors without data
they are counted (`plan/evaluation.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from lorakit.base.head import logits_fn
from lorakit.data.named_sets import context_of
from lorakit.generate.choose import LIKELY_ENOUGH
from lorakit.generate.decoders import Decoder, Prompt, RowDecoder, decoder_for
from lorakit.generate.sampler import chosen, generating
from lorakit.generate.settings import SamplingSettings

# What has just been done, in this order; the last is left out where all prompts run together.
DENSE, PROMPTS, GROWN, DECODING, JOINING = "dense", "prompts", "grown", "decoding", "joining"
Prompts = Sequence[Sequence[int]]


@torch.no_grad()
def longest_passes(
    model: PreTrainedModel,
    prompts: Prompts,
    max_new_tokens: int,
    *,
    max_batch: int,
    max_dense_bytes: int,
    sampled: bool = False,
) -> Iterator[str]:
    """Go through the largest passes of answering `prompts`.

    Args:
        model: on a device, or on the meta device within a rehearsal.
        prompts: one or more, as `generate` would be given them.
        max_new_tokens: of an answer.
        max_batch, max_dense_bytes: see `generate`; they follow from `AnswerRoom`.
        sampled: tokens are drawn at a temperature and some are left out, as by `top_p`; else they
            are the most probable ones.

    Yields:
        DENSE: dense weights are made; PROMPTS: the largest prompts are read; GROWN: keys and values
        are as many as when all answers are at their end (how they got there is not as in
        `generate`); DECODING: every answer has got its last token; JOINING: as some ended, others
        were begun.
    """
    # `top_p` looks at as many tokens as this `top_k` does, but asks the data whether they suffice.
    settings = SamplingSettings(temperature=0.5 if sampled else 0.0, top_k=LIKELY_ENOUGH)
    waiting = sorted(prompts, key=len, reverse=True)

    def draw(hidden_SD: torch.Tensor) -> None:
        drawn_S = hidden_SD.new_zeros(len(hidden_SD), dtype=torch.float64) if sampled else None
        chosen(head(hidden_SD).float(), drawn_S, settings)

    with generating(model, None, max_dense_bytes):
        head = logits_fn(model)  # in here, where it may be a dense one
        yield DENSE
        num_slots = min(max_batch, len(waiting))
        decoder = decoder_for(model, num_slots)
        groups = _groups(decoder, waiting)
        largest = max(groups, key=lambda group: sum(map(len, group)))
        # Room for the longest is there when others join it; into a single slot nobody does.
        before = waiting[: len(groups) > 1 and num_slots > 1]
        if before:
            decoder.step([], _alone(before))
            largest = largest[: len(decoder.joining(_alone(largest), 1)) or None]
        draw(decoder.step([0] * len(before), _alone(largest)))
        yield PROMPTS
        running = _longest_together(decoder, waiting, groups, max_batch, max_new_tokens)
        context = context_of(model.config)
        lengths = [len(prompt) + max_new_tokens - 1 for prompt in running]
        if context is not None:
            lengths = [min(length, context - 1) for length in lengths]
        # The last token that is drawn is never read, and the one before it by the next pass.
        decoder.pretend(
            running, [max(len(p), n - 1) for p, n in zip(running, lengths, strict=True)]
        )
        yield GROWN
        draw(decoder.step([0] * len(running), []))
        yield DECODING
        rest = waiting[len(running) :]
        ended = min(len(groups[0]), len(running))
        count = len(decoder.joining(_alone(rest), len(running) - ended))
        if count:
            decoder.free(range(ended))
            draw(decoder.step([0] * (len(running) - ended), _alone(rest[:count])))
            yield JOINING


def _alone(prompts: Prompts) -> list[Prompt]:
    """Each for a sequence of its own: none that they could share is taken off."""
    return [Prompt(prompt) for prompt in prompts]


def _groups(decoder: Decoder, waiting: Prompts) -> list[Prompts]:
    """Prompts that are read together."""
    groups, start = [], 0
    while start < len(waiting):
        count = len(decoder.joining(_alone(waiting[start:]), 0))
        groups.append(waiting[start : start + count])
        start += count
    return groups


def _longest_together(
    decoder: Decoder,
    waiting: Prompts,
    groups: Sequence[Prompts],
    max_batch: int,
    max_new_tokens: int,
) -> Prompts:
    """The prompts whose answers take the most together."""
    if isinstance(decoder, RowDecoder):
        return max(groups, key=lambda group: len(group) * (len(group[0]) + max_new_tokens))
    return waiting[:max_batch]
