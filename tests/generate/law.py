"""What a fresh forward pass says about completions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from lorakit.generate import Completion

# Longer than the tiny configs' window of 8, equal ones among them; more than run at a time below.
LENGTHS = (3, 17, 9, 1, 21, 9)
NEW_TOKENS = (10, 3, 12, 6, 1, 9)
AT_A_TIME = 4
# Prompts that are asked again: one group of two, and one of five, which is more than run at a time.
AGAIN = (1, 2, 2, 2, 2)


def prompts(lengths: Sequence[int] = LENGTHS, seed: int = 3) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, 300, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def fresh_logprobs(
    model: PreTrainedModel, prompt: Sequence[int], token_ids: Sequence[int]
) -> torch.Tensor:
    """(T, V) log-probabilities at each of the answer's tokens, without any cache."""
    ids = torch.tensor([[*prompt, *token_ids]], device=model.device)
    logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(dim=-1)


def largest_difference(
    model: PreTrainedModel, asked: Sequence[Sequence[int]], completions: Sequence[Completion]
) -> float:
    """Largest |log-probability - that of a fresh forward pass| of any token."""
    worst = 0.0
    for prompt, completion in zip(asked, completions, strict=True):
        fresh = fresh_logprobs(model, prompt, completion.token_ids)
        expected = fresh.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        worst = max(worst, (expected - torch.from_numpy(completion.logprobs)).abs().max().item())
    return worst
