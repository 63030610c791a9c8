"""The sampler: which sequences run, and what each of them draws.

A sequence's random numbers are a function of its seed and its step alone, and no sequence sees
another: what it says depends neither on the batch nor on the order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit import kernels
from lorakit.adapters.attached import attached, has_adapter
from lorakit.adapters.dense_layers import dense_layers
from lorakit.adapters.mixed import mixed
from lorakit.adapters.mixture import Mixture
from lorakit.adapters.several import find
from lorakit.base.eval_mode import eval_mode
from lorakit.base.head import logits_fn
from lorakit.engine.fuse import decoding_modules
from lorakit.errors import NonFiniteError
from lorakit.generate.at_a_time import AnswerRoom
from lorakit.generate.checks import check_request, end_tokens
from lorakit.generate.choose import choose_tokens, uniforms
from lorakit.generate.decoders import Decoder, Prompt, decoder_for
from lorakit.generate.sequence import Growing, Stops
from lorakit.generate.settings import Completion, SamplingSettings
from lorakit.progress import bar

OnToken = Callable[[int, int], None]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
    *,
    seeds: Sequence[int] | None = None,
    max_new_tokens: Sequence[int] | None = None,
    adapters: Sequence[str | None] | None = None,
    max_batch: int | None = None,
    max_dense_bytes: int | None = None,
    on_token: OnToken | None = None,
    has_bar: bool = True,
    description: str = "generating",
) -> list[Completion]:
    """Continue every prompt.

    Runs in eval mode; afterwards every module is in the mode it was in. An adapter takes part
    unless it is disabled (`adapter_disabled`).

    Args:
        prompts: token ids, none of them empty.
        seeds: one for each prompt, taken modulo 2**64; None: made of `settings.seed` and the
            prompt's index. At temperature 0 nothing is drawn.
        max_new_tokens: one for each prompt, instead of `settings.max_new_tokens`.
        adapters: for each prompt the name of its adapter, None for the base alone; they run in one
            batch. None: the adapter in use, for all.
        max_batch: the most sequences that are continued at a time; it changes speed and memory,
            not what comes out. None: as many as fit what is free now, see `AnswerRoom`.
        max_dense_bytes: memory for dense weights, made once and given back at the end, of layers
            that are packed, or adapted in float32 (see `dense_layers`); 0: none; None: a share of
            what is free now, see `AnswerRoom`.
        on_token: called with (index of the prompt, token id) for each token as it is drawn.
        has_bar: whether progress is shown: not where text is shown as it comes, through which a bar
            would cut.
        description: of the progress bar.

    Returns:
        One completion for each prompt, in their order.

    Raises:
        InputError: an argument that cannot work.
        AdapterError: a name that no adapter has, or one that cannot run in a mixed batch.
        NonFiniteError: the model's logits became NaN or infinite.
    """
    limits = check_request(
        model,
        prompts,
        settings,
        seeds=seeds,
        max_new_tokens=max_new_tokens,
        adapters=adapters,
        max_batch=max_batch,
    )
    if max_batch is None or max_dense_bytes is None:
        room = AnswerRoom.here(model, max_new_tokens=max(limits, default=1), given=max_batch)
        max_batch = room.at_a_time(max(map(len, prompts), default=1))
        max_dense_bytes = room.dense_bytes if max_dense_bytes is None else max_dense_bytes
    if seeds is None:
        numbers = kernels.mix_keys(settings.seed, torch.arange(len(prompts)))
    else:
        numbers = torch.tensor([int(kernels.mix_keys(seed)) for seed in seeds])
    sequences = [
        Growing(index, prompt, seed, limit, adapter)
        for index, (prompt, seed, limit, adapter) in enumerate(
            zip(prompts, numbers.tolist(), limits, adapters or [None] * len(prompts), strict=True)
        )
    ]
    stop_ids = {*settings.stop_ids, *(() if settings.ignore_eos else end_tokens(model, tokenizer))}
    stops = Stops(tokenizer, tuple(stop_ids), settings.stop_strings)
    with (
        generating(model, adapters, max_dense_bytes) as mixture,
        bar(description, len(prompts)) as running_bar,
    ):
        num_tokens = 0
        for drawn, ended in _run(model, sequences, settings, stops, max_batch, on_token, mixture):
            num_tokens += drawn
            if has_bar:  # with every token: the first answers may take minutes to end
                running_bar.advance(ended, facts=f"{num_tokens:,} tokens")
    return [sequence.completion() for sequence in sequences]


def _run(
    model: PreTrainedModel,
    sequences: Sequence[Growing],
    settings: SamplingSettings,
    stops: Stops,
    max_batch: int,
    on_token: OnToken | None,
    mixture: Mixture | None,
) -> Iterator[tuple[int, int]]:
    """Generate all sequences; yields how many tokens each step drew, and sequences it ended."""
    decoder: Decoder = decoder_for(model, min(max_batch, max(1, len(sequences))))
    head = logits_fn(model)
    waiting = _groups(sequences)
    running: list[Growing] = []
    while waiting or running:
        counts = decoder.joining(map(_prompt_of, waiting), len(running))
        joining = [_take(waiting, count) for count in counts]
        if mixture is not None:
            firsts = [group[0] for group in joining]
            lengths = [1] * len(running) + [len(sequence.prompt) for sequence in firsts]
            mixture.choose([sequence.adapter for sequence in (*running, *firsts)], lengths)
        hidden_SD = decoder.step(
            [sequence.token_ids[-1] for sequence in running], list(map(_prompt_of, joining))
        )
        for group in joining:
            running += group
        if mixture is not None:  # the head sees each sequence once
            mixture.choose([sequence.adapter for sequence in running])
        _draw(running, head(hidden_SD).float(), settings)
        if on_token is not None:
            for sequence in running:
                on_token(sequence.index, sequence.token_ids[-1])
        drawn = len(running)
        finished = [place for place, sequence in enumerate(running) if stops.end(sequence)]
        if finished:
            running = [running[place] for place in decoder.free(finished)]
        yield drawn, len(finished)


def _groups(sequences: Sequence[Growing]) -> deque[list[Growing]]:
    """Sequences that begin alike, the longest prompts first.

    So the memory they need shows at once, and equal lengths stand together.
    """
    groups: dict[tuple[str | None, tuple[int, ...]], list[Growing]] = {}
    for sequence in sequences:
        groups.setdefault((sequence.adapter, tuple(sequence.prompt)), []).append(sequence)
    return deque(sorted(groups.values(), key=lambda group: -len(group[0].prompt)))


def _prompt_of(group: Sequence[Growing]) -> Prompt:
    return Prompt(group[0].prompt, len(group))


def _take(waiting: deque[list[Growing]], count: int) -> list[Growing]:
    """So many of the first group; the rest of it goes on waiting."""
    group = waiting.popleft()
    if count < len(group):
        waiting.appendleft(group[count:])
    return group[:count]


def _draw(running: Sequence[Growing], logits_SV: torch.Tensor, settings: SamplingSettings) -> None:
    """Add one token to each sequence."""
    drawn_S = None
    if settings.temperature > 0:
        drawn_S = uniforms([s.seed for s in running], [len(s.token_ids) for s in running])
        drawn_S = drawn_S.to(logits_SV.device)
    tokens_S, logprobs_S = chosen(logits_SV, drawn_S, settings)
    for sequence, token, logprob in zip(
        running, tokens_S.tolist(), logprobs_S.tolist(), strict=True
    ):
        if not math.isfinite(logprob):
            raise NonFiniteError(
                f"the logits of prompt {sequence.index} are not finite after "
                f"{len(sequence.token_ids)} tokens; possible: a model that computes numbers. Look "
                "at its training loss, or load it in a wider dtype (base.dtype)."
            )
        sequence.token_ids.append(token)
        sequence.logprobs.append(logprob)


def chosen(
    logits_SV: torch.Tensor, drawn_S: torch.Tensor | None, settings: SamplingSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """(S,) tokens, and their log-probabilities, see `Completion`."""
    return choose_tokens(
        logits_SV,
        drawn_S,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        min_p=settings.min_p,
        tempered_logprobs=settings.tempered_logprobs,
    )


@contextmanager
def generating(
    model: PreTrainedModel, adapters: Sequence[str | None] | None, max_dense_bytes: int
) -> Iterator[Mixture | None]:
    """Inside, nothing is dropped at random, and what does not change is computed once."""
    with ExitStack() as stack:
        mixture = None
        if adapters is not None:
            mixture = stack.enter_context(mixed(model, adapters))
            used = [find(model, name) for name in mixture.names]
        else:
            used = [attached(model)] if has_adapter(model) else []
        stack.enter_context(eval_mode(model))
        for adapter in used:
            stack.enter_context(adapter.cached_norms())
        stack.enter_context(dense_layers(model, max_dense_bytes))
        stack.enter_context(decoding_modules(model))
        yield mixture
