"""What base and tuned think of the same texts: losses, how far apart they are, and how sure.

One pass of each model over the trained positions gives all of it. Logits exist in chunks of rows
only, and no probability leaves the device but as a number per position.

    nll = -log p(target),  KL(base || tuned) = sum_v p_base(v) (log p_base(v) - log p_tuned(v)),
    confidence = max_v p(v),  right = the most probable token is the target

E examples, N trained positions, C rows of a chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attached import adapter_disabled
from lorakit.base.eval_mode import eval_mode
from lorakit.base.head import backbone_hidden, logits_fn
from lorakit.data.examples import ExampleSet, MicroBatch
from lorakit.data.pack import collate, packing_of
from lorakit.evaluate.calibration import Reliability, reliability
from lorakit.kernels import dispatch
from lorakit.progress import bar
from lorakit.train.losses import ExampleLosses

# Rows of a chunk, on every device: five float32 tensors of (C, V) exist at once, 320 MiB with a
# vocabulary of 128k.
CHUNK_ROWS = 128
# Of each trained position, in this order.
NUMBERS = (
    *("base_nll", "base_confidence", "base_right"),
    *("tuned_nll", "tuned_confidence", "tuned_right"),
    "kl",
)


@dataclass(frozen=True)
class OneDistribution:
    """What one model thinks of the trained tokens of E examples.

    Attributes:
        losses: of each example.
        reliability: how sure it is of its own first choices, and how often these are right.
    """

    losses: ExampleLosses
    reliability: Reliability


@dataclass(frozen=True)
class BothDistributions:
    """Base and tuned on the same E examples.

    Attributes:
        kl: float64 (E,), weighted sum over its trained positions of KL(base || tuned) in nats, all
            of the vocabulary; None: it was not asked for.
    """

    base: OneDistribution
    tuned: OneDistribution
    kl: np.ndarray | None


def both_distributions(
    model: PreTrainedModel,
    examples: ExampleSet,
    *,
    with_kl: bool,
    token_budget: int,
    packed: bool,
    pad_id: int = 0,
    description: str = "evaluating",
) -> BothDistributions:
    """Measure base and tuned on the trained positions of the same examples.

    Args:
        model: with an adapter attached and switched on; in evaluation mode meanwhile.
        examples: each with at least one trained token.
        with_kl: whether KL(base || tuned) is wanted, in float32.
        token_budget: tokens of one forward pass (a longer example runs alone).
        packed: whether examples may share a row; otherwise rows are padded.
        pad_id: token id for padding; never seen by the loss.
        description: of the progress bar.
    """
    share = packing_of(packed)
    owners, weights, numbers = [], [], []
    with (
        eval_mode(model),
        torch.no_grad(),
        bar(f"{description}: base and tuned", len(examples)) as progress,
    ):
        for group in share(examples.lengths.tolist(), token_budget):
            batch = collate([examples[i] for i in group], group, packed=packed, pad_id=pad_id)
            owners.append(batch.example_ids[batch.target_examples])
            weights.append(batch.target_weights.double())
            # Copied to the host once, at the end: no wait for the device per micro-batch.
            numbers.append(numbers_of(model, batch.to(model.device), with_kl=with_kl))
            progress.advance(len(group))
    owner_N, weight_N = torch.cat(owners).numpy(), torch.cat(weights).numpy()
    numbers_7N = torch.cat(numbers, dim=1).cpu().double().numpy()
    base, tuned = (
        _one(numbers_7N[rows], owner_N, weight_N, len(examples))
        for rows in (slice(0, 3), slice(3, 6))
    )
    kl = np.bincount(owner_N, numbers_7N[6] * weight_N, minlength=len(examples))
    return BothDistributions(base, tuned, kl if with_kl else None)


def _one(
    numbers_3N: np.ndarray, owner_N: np.ndarray, weight_N: np.ndarray, count: int
) -> OneDistribution:
    nll_N, confidence_N, right_N = numbers_3N
    # Summed on the host, in order: a device adds in whatever order its threads arrive.
    losses = ExampleLosses(
        np.bincount(owner_N, nll_N * weight_N, minlength=count),
        np.bincount(owner_N, weight_N, minlength=count),
    )
    return OneDistribution(losses, reliability(confidence_N, right_N, owner_N, count))


def numbers_of(model: PreTrainedModel, batch: MicroBatch, *, with_kl: bool) -> torch.Tensor:
    """(7, N) float32, `NUMBERS` of each trained position.

    Both hidden states of the trained positions are there at once, logits in chunks.
    """
    hiddens = []
    for is_base in (True, False):
        with adapter_disabled(model) if is_base else nullcontext():
            hiddens.append(backbone_hidden(model, batch)[batch.predictor_rows])
    num_rows = len(batch.targets)
    found = hiddens[0].new_zeros(len(NUMBERS), num_rows, dtype=_wide(hiddens[0]))
    for start in range(0, num_rows, CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        targets = batch.targets[rows]
        with adapter_disabled(model):
            base = logits_fn(model)(hiddens[0][rows])
        tuned = logits_fn(model)(hiddens[1][rows])
        found[0:3, rows] = _sureness(base, targets)
        found[3:6, rows] = _sureness(tuned, targets)
        if with_kl:
            found[6, rows] = kl_divergence(base, tuned)
    return found


def _sureness(logits_CV: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(3, C): NLL of the targets, the highest probability, and 1 where it is the target's."""
    nll, _ = dispatch.cross_entropy(logits_CV, targets, needs_grad=False)
    highest, first = logits_CV.max(dim=-1)
    at_target = logits_CV.gather(1, targets[:, None]).squeeze(1)
    # log p(first) = log p(target) + the difference of their logits.
    confidence = (highest.to(nll.dtype) - at_target.to(nll.dtype) - nll).exp()
    return torch.stack([nll, confidence, (first == targets).to(nll.dtype)])


def kl_divergence(base_CV: torch.Tensor, tuned_CV: torch.Tensor) -> torch.Tensor:
    """KL(base || tuned) of each row, (C,) in nats; float32, float64 for float64 logits."""
    wide = _wide(base_CV)
    base_log = torch.log_softmax(base_CV, dim=-1, dtype=wide)
    apart = base_log - torch.log_softmax(tuned_CV, dim=-1, dtype=wide)
    return base_log.exp_().mul_(apart).sum(dim=-1)


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
