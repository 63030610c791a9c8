"""Log-likelihoods of continuations under a model as it stands: multiple choice, and lm-eval.

The tokens of a continuation are scored after its context by one forward pass, packed where the
family may be packed. Continuations whose input is the same (the letters of one question, of which
only the last token differs) share a pass.

N scored tokens of a pass, D hidden size, T rows of hidden states, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.base.eval_mode import eval_mode
from lorakit.base.head import backbone_hidden, logits_fn
from lorakit.data.examples import Example
from lorakit.data.pack import collate, packing_of
from lorakit.engine.passes import Pass
from lorakit.progress import bar

MAX_LOGITS = 1 << 24  # at a time: 64 MiB in float32


@dataclass(frozen=True)
class Request:
    """A continuation to be scored after its context: token ids, neither of them empty."""

    context: Sequence[int]
    continuation: Sequence[int]


@dataclass(frozen=True)
class Likelihood:
    """What a model thinks of a continuation.

    Attributes:
        logprob: natural logarithm of its probability, the sum over its tokens.
        is_greedy: whether each of its tokens is the most probable one after those before it.
    """

    logprob: float
    is_greedy: bool


@torch.no_grad()
def likelihoods(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    token_budget: int,
    packed: bool,
    pad_id: int = 0,
    description: str = "scoring",
) -> list[Likelihood]:
    """The log-likelihood of every continuation, in order; log-softmax in float32, sums in float64.

    Args:
        model: a causal language model; in evaluation mode meanwhile. An adapter takes part unless
            it is disabled.
        requests: context and continuation, less its last token, fit the model's context.
        token_budget: tokens of one forward pass (a longer request runs alone).
        packed: whether requests may share a row; otherwise rows are padded.
        pad_id: token id for padding; never scored, never attended to.
        description: of the progress bar.
    """
    shared = _by_input(requests)
    # Nothing is trained: which rows are read is decided by the requests.
    inputs = [Example(np.array(ids, np.int32), np.zeros(len(ids), np.float32)) for ids in shared]
    sharing = list(shared.values())
    share = packing_of(packed)
    found: dict[int, Likelihood] = {}
    with eval_mode(model), bar(description, len(requests)) as progress:
        for group in share([one.num_tokens for one in inputs], token_budget):
            batch = collate([inputs[i] for i in group], group, packed=packed, pad_id=pad_id)
            hidden_TD = backbone_hidden(model, batch.to(model.device))
            start = 0
            asked: list[tuple[int, int]] = []  # (request, the row after its last one)
            for i in group:
                asked += [(request, start + inputs[i].num_tokens) for request in sharing[i]]
                start += inputs[i].num_tokens if packed else batch.max_seqlen
            scored = _score(hidden_TD, logits_fn(model), [(requests[r], end) for r, end in asked])
            found |= dict(zip((r for r, _ in asked), scored, strict=True))
            progress.advance(len(asked))
    return [found[index] for index in range(len(requests))]


def likelihood_passes(
    requests: Sequence[Request], *, token_budget: int, packed: bool
) -> list[Pass]:
    """The forward passes of `likelihoods`, by their lengths."""
    shared = _by_input(requests)
    lengths = [len(ids) for ids in shared]
    scored = [sum(len(requests[r].continuation) for r in found) for found in shared.values()]
    passes = []
    for group in packing_of(packed)(lengths, token_budget):
        own = [lengths[i] for i in group]
        laid = own if packed else [max(own)] * len(own)
        passes.append(Pass(sum(laid), sum(scored[i] for i in group), tuple(laid)))
    return passes


def _by_input(requests: Sequence[Request]) -> dict[tuple[int, ...], list[int]]:
    """{what the model is given: the requests that are read off it}."""
    shared: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        given = (*request.context, *request.continuation[:-1])
        shared.setdefault(given, []).append(index)
    return shared


def _score(
    hidden_TD: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    asked: Sequence[tuple[Request, int]],
) -> list[Likelihood]:
    """The likelihood of each request, whose last token the row before `end` predicts."""
    lengths = [len(request.continuation) for request, _ in asked]
    rows = [np.arange(end - n, end) for (_, end), n in zip(asked, lengths, strict=True)]
    targets = [np.array(request.continuation, np.int64) for request, _ in asked]
    rows_N, targets_N = (
        torch.from_numpy(np.concatenate(parts)).to(hidden_TD.device) for parts in (rows, targets)
    )
    logprobs, greedy = token_logprobs(hidden_TD, head, rows_N, targets_N)
    logprob_N, greedy_N = logprobs.double().cpu().numpy(), greedy.cpu().numpy()
    ends = np.cumsum(lengths)
    return [
        Likelihood(float(logprob_N[end - n : end].sum()), bool(greedy_N[end - n : end].all()))
        for end, n in zip(ends, lengths, strict=True)
    ]


def token_logprobs(
    hidden_TD: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    rows_N: torch.Tensor,
    targets_N: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (N,), the log-probability of each target after the row that predicts it; and whether
    it is the most probable token. Logits are made in chunks of `MAX_LOGITS`."""
    logprobs, greedy = [], []
    at_once = max(1, MAX_LOGITS // head(hidden_TD[:1]).shape[-1])
    for part in torch.arange(len(rows_N), device=rows_N.device).split(at_once):
        logits_NV = head(hidden_TD[rows_N[part]]).float()
        chosen_N = logits_NV.gather(1, targets_N[part, None])[:, 0]
        logprobs.append(chosen_N - logits_NV.logsumexp(dim=-1))
        greedy.append(logits_NV.argmax(dim=-1) == targets_N[part])
    return torch.cat(logprobs), torch.cat(greedy)
