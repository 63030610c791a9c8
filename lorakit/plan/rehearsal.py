"""A training step on tensors that hold no data, to count what it allocates.

The model, the engine's modules and the loss are the very ones that train; every tensor is on the
meta device, where it has a shape, a dtype and a life, but no bytes. So what is kept for the
backward pass, what lives for a moment, and when, need not be known here.

Layers of one kind keep the same. The first two and the last of each kind are run, those between are
stood in for by one block of what the second kept: a model of 94 layers takes no longer than one
of 4.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import Attached
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.head import backbone_hidden
from lorakit.data.examples import Example, MicroBatch
from lorakit.data.pack import collate, collate_shared
from lorakit.engine.activations import LayerBytes, decoder_layers
from lorakit.engine.dense_copies import KeptDense
from lorakit.engine.layer_kinds import layer_kind
from lorakit.engine.recompute import Level, RecomputePolicy, can_recompute
from lorakit.plan.heap import Heap
from lorakit.plan.known_values import KnownValues
from lorakit.plan.ledger import Ledger
from lorakit.plan.stand_ins import Shapes, few_layers, numbered, places_to_run, set_aside
from lorakit.train.batches import row_keys
from lorakit.train.choices import kept_by_layers
from lorakit.train.logprobs import logprobs_of_hidden
from lorakit.train.modes import training_mode
from lorakit.train.step import nll_of_hidden

# What PyTorch says of `.item()` and copies, of `.numpy()`, of ops without shapes, of `nonzero()`.
_NO_DATA = re.compile(r"meta tensor|meta device|'meta' backend|register_meta", re.IGNORECASE)
_MODELS = str(Path(transformers.__file__).parent)


@dataclass(frozen=True)
class BatchShape:
    """What of a micro-batch its memory depends on.

    Attributes:
        lengths: tokens of each example.
        num_trained: trained tokens of all of them.
        packed: whether they share a row.
        prompts: where neighbours with one prompt have it in the row once: of each example the
            number of its prompt, and the tokens of this; all behind it are trained. (): none does.
    """

    lengths: tuple[int, ...]
    num_trained: int
    packed: bool
    prompts: tuple[tuple[int, int], ...] = ()

    @property
    def num_tokens(self) -> int:
        """Of the forward pass, padding included."""
        if self.prompts:
            own = sum(self.lengths) - sum(length for _, length in self.prompts)
            return own + sum(length for _, length in dict.fromkeys(self.prompts))
        return sum(self.lengths) if self.packed else len(self.lengths) * max(self.lengths)


@dataclass(frozen=True)
class PassBytes:
    """Bytes of one micro-batch beside weights, adapter, gradients and optimizer.

    Attributes:
        kept: what the forward pass leaves for the backward pass, the last hidden states included.
        forward: the most while the layers' forward pass ran.
        loss: the most while the loss and its gradient were made.
        backward: the most while the backward pass ran; 0 without one.
        events: every allocation and its end (see `Ledger`).
        heap: that they are made in, if every layer was run; None: holes are not asked for.
        ops: names of the kernels that were called (see `kernels/dispatch.py`).
    """

    kept: int
    forward: int
    loss: int
    backward: int
    events: list[tuple[int, int]]
    heap: Heap | None = None
    ops: frozenset[str] = frozenset()

    @property
    def peak(self) -> int:
        """The most at any moment."""
        return max(self.forward, self.loss, self.backward)

    @cached_property
    def holes(self) -> int:
        """Of a CPU's heap beside the peak; found once, for going through the events takes as long
        as a rehearsal."""
        return 0 if self.heap is None else max(0, self.heap.resident_peak(self.events) - self.peak)


@dataclass(frozen=True)
class Layers:
    """What of a model's decoder layers all rehearsals need.

    Attributes:
        bytes: see `layer_bytes`; of a family without such layers, one for the backbone.
        kinds: of each; alike are those with the same number.
    """

    bytes: Sequence[LayerBytes]
    kinds: Sequence[int]

    @staticmethod
    def of(model: PreTrainedModel) -> Layers:
        """Those of a model with its adapter; what layers of a kind keep is found of the first."""
        kinds = numbered(map(layer_kind, decoder_layers(model)))
        if not kinds:
            return Layers(kept_by_layers(model), kinds)
        with set_aside(model, {kinds.index(kind) for kind in kinds}):
            of_kind = kept_by_layers(model)
        return Layers([of_kind[kind] for kind in kinds], kinds)


def asks_for_data(error: Exception) -> bool:
    """Whether a rehearsal failed because a model's code wants values of tensors, or calls an op
    that PyTorch has no shapes for; anything else that fails in it is a fault."""
    return _NO_DATA.search(str(error)) is not None


def where_data_is_asked(error: Exception) -> str:
    """The line of a model's code at which it did: `modeling_jetmoe.py, line 195`."""
    frames = traceback.extract_tb(error.__traceback__)
    last = ([frame for frame in frames if frame.filename.startswith(_MODELS)] or frames)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def rehearse(
    model: PreTrainedModel,
    adapter: Attached,
    shape: BatchShape,
    policy: RecomputePolicy,
    *,
    device_type: str = "cpu",
    trains: bool = True,
    granularity: int = 1,
    heap: Heap | None = None,
    layers: Layers | None = None,
    of_policy: bool = False,
) -> PassBytes:
    """Run a micro-batch through a model without data.

    Args:
        model: on the meta device, with `adapter` attached; it stays as it is.
        shape: of the micro-batch.
        policy: of recompute.
        device_type: "cpu" or "cuda", what it is a rehearsal for.
        trains: with a backward pass; otherwise as a validation runs.
        granularity: bytes to which the allocator rounds each request.
        heap: of a CPU; then all layers are run, so that `events` are those of a real pass.
        layers: of the model; None: they are looked through.
        of_policy: the loss is that of a policy gradient, of each token's own log-probability.
    """
    micro_batch = batch_of(shape)
    layers = Layers.of(model) if layers is None else layers
    levels: list[Level] = ["none"] * len(layers.kinds)
    if layers.kinds and can_recompute(model):
        levels = policy.levels(layers.bytes, shape.num_tokens)
    kinds = numbered(zip(layers.kinds, levels, strict=True))
    run = places_to_run(kinds, backward=trains)
    if heap is not None:
        run = set(range(len(kinds)))
    with set_aside(model, run) as standing, _gradients(model) as gradients:
        tensors = [*model.parameters(), *model.buffers(), *_dense_copies(model), *gradients]
        with (
            kernels.shapes_only(device_type) as ops,
            training_mode(model, adapter, policy) as recompute,
            torch.set_grad_enabled(trains),
        ):
            model.train(trains)
            recompute.assign([levels[place] for place in sorted(run)])
            with (
                Ledger(granularity, tensors, _values_of(micro_batch, shape)) as ledger,
                few_layers(standing, kinds, run, ledger),
                Shapes(),
            ):
                loss_of = _policy_loss if of_policy else _loss
                found = _one_pass(model, adapter, micro_batch, ledger, loss_of, trains=trains)
                return replace(found, heap=heap, ops=frozenset(ops))


def _values_of(micro_batch: MicroBatch, shape: BatchShape) -> KnownValues:
    """Where its examples begin and end."""
    values, real = KnownValues(), vars(batch_of(shape, "cpu"))
    for name, tensor in vars(micro_batch).items():
        if isinstance(tensor, torch.Tensor):
            values.know(tensor, real[name])
    return values


@contextmanager
def _gradients(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Inside, what trains has a gradient, as from the second micro-batch on."""
    before = {p: p.grad for p in model.parameters() if p.requires_grad}
    try:
        for parameter in before:
            parameter.grad = torch.empty_like(parameter)
        yield [parameter.grad for parameter in before if parameter.grad is not None]
    finally:
        for parameter, gradient in before.items():
            parameter.grad = gradient


def _one_pass(
    model: PreTrainedModel,
    adapter: Attached,
    micro_batch: MicroBatch,
    ledger: Ledger,
    loss_of: Callable[[PreTrainedModel, torch.Tensor, MicroBatch], torch.Tensor],
    *,
    trains: bool,
) -> PassBytes:
    adapter.dropout.rows = row_keys(micro_batch, 0, 0) if trains else None
    hidden = backbone_hidden(model, micro_batch)
    kept, forward = ledger.live, ledger.peak
    ledger.begin_phase()
    loss = loss_of(model, hidden, micro_batch)
    of_loss = ledger.peak
    del hidden
    ledger.begin_phase()
    if trains:
        loss.backward()
    adapter.dropout.rows = None
    return PassBytes(kept, forward, of_loss, ledger.peak if trains else 0, ledger.events)


def _loss(model: PreTrainedModel, hidden: torch.Tensor, micro_batch: MicroBatch) -> torch.Tensor:
    return nll_of_hidden(model, hidden, micro_batch)[0]


def _policy_loss(
    model: PreTrainedModel, hidden: torch.Tensor, micro_batch: MicroBatch
) -> torch.Tensor:
    """What follows from the log-probabilities is a few numbers a token."""
    logprobs, _ = logprobs_of_hidden(model, hidden, micro_batch, with_entropies=True)
    return logprobs.sum()


def _dense_copies(model: nn.Module) -> Iterator[torch.Tensor]:
    for module in model.modules():
        if isinstance(module, FrozenLinear | FrozenExperts) and isinstance(
            module.stored, KeptDense
        ):
            yield module.stored.dequantize()


def batch_of(shape: BatchShape, device: str = "meta") -> MicroBatch:
    """Examples of these lengths, whose last tokens train."""
    if shape.prompts:
        return _of_prompts(shape).to(device)
    examples = []
    left = shape.num_trained
    for length in shape.lengths:
        trained = min(left, length - 1)
        left -= trained
        examples.append(_example(length, trained, 0))
    return collate(examples, range(len(examples)), packed=shape.packed, pad_id=0).to(device)


def _of_prompts(shape: BatchShape) -> MicroBatch:
    """Prompts with different numbers begin otherwise."""
    prompts = [length for _, length in shape.prompts]
    examples = [
        _example(length, length - prompt, number)
        for length, (number, prompt) in zip(shape.lengths, shape.prompts, strict=True)
    ]
    return collate_shared(examples, range(len(examples)), prompts)


def _example(length: int, trained: int, token: int) -> Example:
    weights = np.zeros(length, dtype=np.float32)
    weights[length - trained :] = 1
    return Example(np.full(length, token, dtype=np.int32), weights)
