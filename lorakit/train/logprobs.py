"""Log-probabilities of completions under the model as it stands, in the numerics of training.

N trained positions of a micro-batch.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.base.head import backbone_hidden, head_parameters, logits_fn
from lorakit.data.examples import MicroBatch


def token_logprobs(
    model: PreTrainedModel,
    micro_batch: MicroBatch,
    *,
    temperature: float = 1.0,
    with_entropies: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of each target of a micro-batch, in its order.

    Args:
        temperature: above 0; of the distribution that both results are of.
        with_entropies: whether they are computed.

    Returns:
        logprobs (N,), float32, with gradients where the model trains, and entropies (N,), detached,
        in nats, or None.
    """
    hidden = backbone_hidden(model, micro_batch)
    return logprobs_of_hidden(
        model, hidden, micro_batch, temperature=temperature, with_entropies=with_entropies
    )


def logprobs_of_hidden(
    model: PreTrainedModel,
    hidden: torch.Tensor,
    micro_batch: MicroBatch,
    *,
    temperature: float = 1.0,
    with_entropies: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The second half of `token_logprobs`: from what `backbone_hidden` returned."""
    return kernels.linear_logprobs(
        hidden[micro_batch.predictor_rows],
        logits_fn(model),
        micro_batch.targets,
        temperature=temperature,
        parameters=head_parameters(model),
        with_entropies=with_entropies,
    )
