"""One optimizer step: forward and backward of its micro-batches, then the gated update."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import Attached
from lorakit.base.head import backbone_hidden, head_parameters, logits_fn
from lorakit.data.examples import MicroBatch
from lorakit.engine.recompute import Recompute
from lorakit.optimizers.optimizer import AdamW
from lorakit.train.batches import StepBatch, row_keys

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """What a step left on the device; reading it waits for no later work.

    Attributes:
        batch: what it saw, kept so that a failure can be replayed.
        learning_rate: of the step.
        numbers: float32 (3,) on the host, filled when `ready` says so: loss, gradient norm before
            clipping, and 1 when the step took effect or 0 when something was not finite.
        ready: None on the CPU.
        queued_at: when the host was done with the step, in seconds of the monotonic clock.
    """

    batch: StepBatch
    learning_rate: float
    numbers: torch.Tensor
    ready: torch.cuda.Event | None
    queued_at: float

    def read(self) -> tuple[float, float, bool]:
        """Loss, gradient norm, and whether the step was finite."""
        if self.ready is not None:
            self.ready.synchronize()
        loss, grad_norm, finite = self.numbers.tolist()
        return loss, grad_norm, finite == 1


def take_step(
    model: PreTrainedModel,
    adapter: Attached,
    optimizer: AdamW,
    batch: StepBatch,
    *,
    learning_rate: float,
    max_grad_norm: float | None,
    seed: int,
    recompute: Recompute | None = None,
    sum_over_ranks: Callable[[torch.Tensor], object] | None = None,
) -> StepResult:
    """Queue one optimizer step.

    The loss is `sum of w_i * NLL_i / sum of w_i` over all micro-batches and ranks, or the sum of
    what `batch.loss_of` gives over `batch.total_weight`: one count per step. The division comes
    last, in the float32 gradient: before the backward pass it would be rounded to the base's dtype,
    and so would every gradient made smaller by it.

    Args:
        model: with `adapter` attached, in the mode it trains in.
        batch: of this step.
        seed: of the dropout masks.
        recompute: of `training_mode`; None: layers keep what they keep.
        sum_over_ranks: adds a tensor up over all processes, in place; None: there is one.
    """
    loss = backward_with_room(model, adapter, optimizer, batch, seed, recompute)
    if sum_over_ranks is not None:
        sum_over_ranks(loss)
    loss /= batch.total_weight
    flags = optimizer.step(
        learning_rate,
        loss,
        divisor=batch.total_weight,
        max_grad_norm=max_grad_norm,
        reduce_gradient=sum_over_ranks,
    )
    adapter.parameters_changed()
    return _send_to_host(batch, learning_rate, torch.stack([loss, flags.grad_norm, flags.finite]))


def backward_with_room(
    model: PreTrainedModel,
    adapter: Attached,
    optimizer: AdamW,
    batch: StepBatch,
    seed: int,
    recompute: Recompute | None,
) -> torch.Tensor:
    """`backward` from gradients of 0; when the device's memory is full, once more after paged state
    has left it.

    Both tries compute the same: masks depend on the step, not on what was drawn before.
    """
    optimizer.zero_grad()
    try:
        return backward(model, adapter, batch, seed=seed, recompute=recompute)
    except torch.OutOfMemoryError:
        freed = optimizer.evict()
        if freed == 0:
            raise
        log.warning(
            "step %d did not fit the device's memory; trying again after %.1f MiB of optimizer "
            "state have left it",
            batch.step + 1,
            freed / 2**20,
        )
    # Outside of the handler, whose traceback keeps the activations of the first try.
    optimizer.zero_grad()
    return backward(model, adapter, batch, seed=seed, recompute=recompute)


def backward(
    model: PreTrainedModel,
    adapter: Attached,
    batch: StepBatch,
    *,
    seed: int,
    recompute: Recompute | None = None,
) -> torch.Tensor:
    """Add the gradient of this rank's loss to the parameters' `.grad`.

    Returns:
        0-d, the loss of this rank's micro-batches (the weighted sum of their NLL, or what
        `batch.loss_of` gives), not yet divided by the step's total weight.
    """
    device = compute_device(model)
    loss = torch.zeros((), device=device)
    for place, on_host in enumerate(batch.micro_batches):
        micro_batch = on_host.to(device)
        if recompute is not None:
            recompute.prepare(micro_batch.input_ids.numel())
        adapter.dropout.rows = row_keys(micro_batch, seed, batch.masks_of)
        if batch.loss_of is None:
            share = weighted_nll(model, micro_batch)[0]
        else:
            share = batch.loss_of(model, place, micro_batch)
        share.backward()
        loss += share.detach()
    adapter.dropout.rows = None
    return loss


def weighted_nll(
    model: PreTrainedModel, micro_batch: MicroBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of weight times negative log-likelihood over a micro-batch, and each target's likelihood.

    Returns:
        0-d, and (N,) detached; float32.
    """
    return nll_of_hidden(model, backbone_hidden(model, micro_batch), micro_batch)


def nll_of_hidden(
    model: PreTrainedModel, hidden: torch.Tensor, micro_batch: MicroBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """The second half of `weighted_nll`: from what `backbone_hidden` returned."""
    return kernels.linear_cross_entropy(
        hidden[micro_batch.predictor_rows],
        logits_fn(model),
        micro_batch.targets,
        micro_batch.target_weights,
        parameters=head_parameters(model),
    )


def compute_device(model: PreTrainedModel) -> torch.device:
    """Where micro-batches go: the device of the trained parameters."""
    return next(p.device for p in model.parameters() if p.requires_grad)


def _send_to_host(batch: StepBatch, learning_rate: float, numbers: torch.Tensor) -> StepResult:
    numbers = numbers.float()
    if numbers.device.type == "cpu":
        return StepResult(batch, learning_rate, numbers, None, time.monotonic())
    on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    on_host.copy_(numbers, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return StepResult(batch, learning_rate, on_host, ready, time.monotonic())
