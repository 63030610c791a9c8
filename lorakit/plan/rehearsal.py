"""A training step on tensors that hold no data, to count what it allocates.

The model, the engine's modules, recompute and the loss are the very ones that train; every tensor
is one of PyTorch's fake tensors, which have a shape, a dtype and a life, but no bytes. So what is
kept for the backward pass, what lives for a moment, and when, need not be known here.

Layers of one kind keep the same. The first two and the last of each kind are run, those between are
stood in for by one block of what the second kept: a model of 94 layers takes no longer than one
of 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import Attached
from lorakit.base.head import backbone_hidden
from lorakit.data.examples import Example, MicroBatch
from lorakit.data.pack import collate
from lorakit.engine.activations import decoder_layers
from lorakit.engine.recompute import RecomputePolicy
from lorakit.plan.ledger import Ledger
from lorakit.train.batches import row_keys
from lorakit.train.modes import training_mode
from lorakit.train.step import nll_of_hidden

# The numbers by which modules of one kind differ.
_NUMBERING = frozenset({"name", "layer_idx", "layer_id", "layer_number", "_depth", "training"})


@dataclass(frozen=True)
class BatchShape:
    """What of a micro-batch its memory depends on.

    Attributes:
        lengths: tokens of each example.
        num_trained: trained tokens of all of them.
        packed: whether they share a row.
    """

    lengths: tuple[int, ...]
    num_trained: int
    packed: bool

    @property
    def num_tokens(self) -> int:
        """Of the forward pass, padding included."""
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
    """

    kept: int
    forward: int
    loss: int
    backward: int
    events: list[tuple[int, int]]

    @property
    def peak(self) -> int:
        """The most at any moment."""
        return max(self.forward, self.loss, self.backward)


def rehearse(
    model: PreTrainedModel,
    adapter: Attached,
    shape: BatchShape,
    policy: RecomputePolicy,
    *,
    device_type: str = "cpu",
    trains: bool = True,
    granularity: int = 1,
) -> PassBytes:
    """Run a micro-batch through a model without data.

    Args:
        model: on the meta device, with `adapter` attached; afterwards its tensors are fake ones, of
            which another rehearsal can be made, and nothing else.
        shape: of the micro-batch.
        policy: of recompute.
        device_type: "cpu" or "cuda", what it is a rehearsal for.
        trains: with a backward pass; otherwise as a validation runs.
        granularity: bytes to which the allocator rounds each request.
    """
    with FakeTensorMode() as fake, kernels.shapes_only(device_type):
        _empty(model)
        micro_batch = _fake_batch(shape, fake)
        parameters = adapter.parameters().values()
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        known = [*_tensors_of(model), *(p.grad for p in parameters if p.grad is not None)]
        with (
            training_mode(model, adapter, policy) as recompute,
            Ledger(granularity, known) as ledger,
            torch.set_grad_enabled(trains),
        ):
            model.train(trains)
            recompute.prepare(shape.num_tokens)
            with _few_layers(model, ledger):
                return _one_pass(model, adapter, micro_batch, ledger, trains)


def _one_pass(
    model: PreTrainedModel,
    adapter: Attached,
    micro_batch: MicroBatch,
    ledger: Ledger,
    trains: bool,
) -> PassBytes:
    adapter.dropout.rows = row_keys(micro_batch, 0, 0) if trains else None
    hidden = backbone_hidden(model, micro_batch)
    kept, forward = ledger.live, ledger.peak
    ledger.begin_phase()
    loss, _ = nll_of_hidden(model, hidden, micro_batch)
    of_loss = ledger.peak
    del hidden
    ledger.begin_phase()
    if trains:
        loss.backward()
    adapter.dropout.rows = None
    return PassBytes(kept, forward, of_loss, ledger.peak if trains else 0, ledger.events)


def _empty(model: nn.Module) -> None:
    """Replace every parameter and buffer by a fake tensor like it."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def like(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
            made[id(tensor)] = tensor, empty
        return made[id(tensor)][1]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = like(tensor)  # type: ignore[assignment]


def _tensors_of(model: nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _fake_batch(shape: BatchShape, fake: FakeTensorMode) -> MicroBatch:
    """Examples of these lengths, whose last tokens train."""
    examples = []
    left = shape.num_trained
    for length in shape.lengths:
        trained = min(left, length - 1)
        left -= trained
        weights = np.zeros(length, dtype=np.float32)
        weights[length - trained :] = 1
        examples.append(Example(np.zeros(length, dtype=np.int32), weights))
    batch = collate(examples, range(len(examples)), packed=shape.packed, pad_id=0)
    tensors = {n: v for n, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    return replace(batch, **{name: fake.from_tensor(value) for name, value in tensors.items()})


@contextmanager
def _few_layers(model: PreTrainedModel, ledger: Ledger) -> Iterator[None]:
    """Inside, of each kind of layer only the first two and the last are run."""
    layers = decoder_layers(model)
    kinds = [_kind(layer) for layer in layers]
    places: dict[Any, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    shortened = _Shortened(ledger)
    try:
        for place, (layer, kind) in enumerate(zip(layers, kinds, strict=True)):
            # The very first layer keeps less than the others: its input needs no gradient.
            runs = place in (*places[kind][:2], places[kind][-1])
            # An attribute of the instance: its class, and whoever looks for it, stay.
            vars(layer)["forward"] = partial(shortened.forward, layer, kind, runs)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


class _Shortened:
    """Runs a layer or stands in for it, and notes what each kind keeps."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept: dict[Any, int] = {}
        self._outputs: dict[Any, Any] = {}
        self._before: tuple[Any, int] | None = None  # the layer before: its kind, the bytes then

    def forward(self, layer: nn.Module, kind: Any, runs: bool, *args: Any, **kwargs: Any) -> Any:
        if self._before is not None:
            before, live = self._before
            self._kept[before] = max(0, self._ledger.live - live)
        self._before = (kind, self._ledger.live) if runs else None
        if runs:
            output = type(layer).forward(layer, *args, **kwargs)
            self._outputs.setdefault(kind, tree_map_only(torch.Tensor, _shape_of, output))
            return output
        hidden = args[0] if args else kwargs["hidden_states"]
        stand_in = _Keep.apply(hidden, self._kept[kind])
        return tree_map_only(
            _Shape,
            lambda s: (
                stand_in if s == _shape_of(hidden) else hidden.new_empty(s.size, dtype=s.dtype)
            ),
            self._outputs[kind],
        )


@dataclass(frozen=True)
class _Shape:
    size: torch.Size
    dtype: torch.dtype


def _shape_of(tensor: torch.Tensor) -> _Shape:
    return _Shape(tensor.shape, tensor.dtype)


class _Keep(torch.autograd.Function):
    """A layer's output, and so many bytes kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, num_bytes: int) -> torch.Tensor:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(hidden.new_empty(num_bytes, dtype=torch.uint8))
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        return torch.empty_like(grad), None


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """What decides how much a layer keeps: its modules, their plain values, their tensors."""
    found: list[Any] = []
    for name, module in layer.named_modules():
        plain = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, int | float | str | None) and key not in _NUMBERING
        }
        tensors: Sequence[Any] = [
            (key, tuple(tensor.shape), tensor.dtype)
            for own in (module._parameters, module._buffers)
            for key, tensor in own.items()
            if tensor is not None
        ]
        found.append((name, type(module), tuple(sorted(plain.items())), tuple(tensors)))
    return tuple(found)
