"""What stands in for modules and functions while a step is rehearsed on tensors without data."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.engine.activations import decoder_layers
from lorakit.plan.ledger import Ledger


def numbered(kinds: Iterable[Hashable]) -> list[int]:
    """The kinds as numbers, from 0 on in the order in which they come first."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(kind, len(numbers)) for kind in kinds]


def places_to_run(kinds: Sequence[int], *, backward: bool) -> set[int]:
    """Of each kind the first two, and the last where there will be a backward pass: the very first
    layer keeps less than the others, for its input needs no gradient."""
    places: dict[int, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    return {place for found in places.values() for place in found[:2] + found[-1:] * backward}


@contextmanager
def few_layers(
    layers: Sequence[nn.Module], kinds: Sequence[int], run: Container[int], ledger: Ledger
) -> Iterator[None]:
    """Inside, the layers at the places `run` are run, and the others stood in for by what the
    second of their kind has kept.

    Args:
        layers: all decoder layers, in their order; see `set_aside`.
        kinds: of each; see `numbered`.
    """
    shortened = _Shortened(ledger)
    try:
        for place, (layer, kind) in enumerate(zip(layers, kinds, strict=True)):
            # An attribute of the instance: its class, and whoever looks for it, stay.
            vars(layer)["forward"] = partial(shortened.forward, layer, kind, place in run)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


@contextmanager
def set_aside(model: PreTrainedModel, run: Container[int]) -> Iterator[list[nn.Module]]:
    """Inside, decoder layers at other places than `run` are out of the model, and whoever goes
    through its modules does not see theirs; gives what stands at each place."""
    layers: list[nn.Module] = list(decoder_layers(model))
    standing = [layer if place in run else _Aside(layer) for place, layer in enumerate(layers)]
    instead = {
        id(layer): stand
        for layer, stand in zip(layers, standing, strict=True)
        if layer is not stand
    }
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for parent in model.modules() if instead else []:
            for name, child in parent._modules.items():
                if id(child) in instead and child is not None:
                    swapped.append((parent, name, child))
        for parent, name, child in swapped:
            parent._modules[name] = instead[id(child)]
        yield standing
    finally:
        for parent, name, child in swapped:
            parent._modules[name] = child


class _Aside(nn.Module):
    """At the place of a layer: its plain attributes, which model code may read, and no modules."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        own = vars(self).keys()
        vars(self).update({key: value for key, value in vars(layer).items() if key not in own})


class _Shortened:
    """Runs a layer or stands in for it, and notes what each kind keeps: for the backward pass, what
    there is more when the next layer begins; without one, keys and values, what there still is of
    all that came while the layer ran."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept: dict[Any, int] = {}
        self._outputs: dict[Any, Any] = {}
        self._before: tuple[Any, int] | None = None  # the layer before: its kind, the bytes then
        self._born: dict[nn.Module, set[int]] = {}  # of layers that ran, numbers of storages
        self._example: dict[Any, nn.Module] = {}  # of each kind, the layer that ran last
        self._held: dict[nn.Module, torch.Tensor] = {}  # by layers that are stood in for

    def forward(self, layer: nn.Module, kind: Any, runs: bool, *args: Any, **kwargs: Any) -> Any:
        if self._before is not None:
            before, live = self._before
            self._kept[before] = max(0, self._ledger.live - live)
        self._before = (kind, self._ledger.live) if runs else None
        if runs:
            first = len(self._ledger.events)
            output = _run(layer, *args, **kwargs)
            if not torch.is_grad_enabled():
                self._remember(layer, kind, first, output)
            self._outputs[kind] = tree_map_only(torch.Tensor, _shape_of, output)
            return output
        hidden = args[0] if args else kwargs["hidden_states"]
        if not torch.is_grad_enabled():
            self._hold(layer, kind, hidden)
        stand_in = _Keep.apply(hidden, self._kept[kind])
        return tree_map_only(
            _Shape,
            lambda s: (
                stand_in if s == _shape_of(hidden) else hidden.new_empty(s.size, dtype=s.dtype)
            ),
            self._outputs[kind],
        )

    def _remember(self, layer: nn.Module, kind: Any, first: int, output: Any) -> None:
        """What came since a storage of the ledger, and is no output of the layer's."""
        came = {number for number in self._ledger.alive if number >= first}
        came -= {self._ledger.number_of(x) for x in tree_leaves(output) if torch.is_tensor(x)}
        self._born.setdefault(layer, set()).update(came)
        self._example[kind] = layer

    def _hold(self, layer: nn.Module, kind: Any, hidden: torch.Tensor) -> None:
        """As much as the layer's example has by now."""
        alive = self._ledger.alive
        born = self._born[self._example[kind]]
        born &= alive.keys()
        wanted = sum(alive[number] for number in born)
        held = self._held.get(layer)
        if (0 if held is None else held.numel()) != wanted:
            del held
            self._held.pop(layer, None)
            self._held[layer] = hidden.new_empty(wanted, dtype=torch.uint8)


def _run(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A layer's forward pass, made again in the backward pass where it is to be."""
    if not (layer.gradient_checkpointing and torch.is_grad_enabled()):
        return type(layer).forward(layer, *args, **kwargs)
    hidden = args[0] if args else kwargs.pop("hidden_states")

    def compute(hidden: torch.Tensor) -> Any:
        layer.gradient_checkpointing = False  # type: ignore[assignment]
        try:
            return type(layer).forward(layer, hidden, *args[1:], **kwargs)
        finally:
            layer.gradient_checkpointing = True  # type: ignore[assignment]

    rest: list[tuple[Any, ...] | None] = []
    trained = [p for p in layer.parameters() if p.requires_grad]
    found = _Recomputed.apply(compute, rest, hidden, *trained)
    others = rest.pop()
    return found if others is None else (found, *others)


class _Recomputed(torch.autograd.Function):
    """Keeps the input alone, as PyTorch's checkpoint does; that would import PyTorch's compiler,
    which takes seconds.

    Of the trained parameters it is given, so that the output needs a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, compute: Any, rest: list[Any], hidden: torch.Tensor, *_: torch.Tensor
    ) -> torch.Tensor:
        ctx.compute = compute
        ctx.save_for_backward(hidden)
        output = compute(hidden)
        # Of a layer that gives a tuple, what comes after the hidden states.
        rest.append(output[1:] if isinstance(output, tuple) else None)
        return _first(output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (hidden,) = ctx.saved_tensors
        alone = hidden.detach().requires_grad_(ctx.needs_input_grad[2])
        with torch.enable_grad(), Shapes():  # autograd has left the one that the pass is in
            output = _first(ctx.compute(alone))
        torch.autograd.backward(output, grad)
        return None, None, alone.grad, *[None] * (len(ctx.needs_input_grad) - 3)


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


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
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return torch.empty_like(grad), None


class Shapes(TorchFunctionMode):
    """For what PyTorch does otherwise, or not at all, where there is no data: it would write
    attention out, which with data keeps no scores, and multiplies experts in bfloat16 only. And for
    what an op allocates inside of it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "logsumexp":
            return _log_sum_exp(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("grouped_mm", "_grouped_mm"):
            return _ExpertsProduct.apply(*args[:2])
        return func(*args, **(kwargs or {}))


def _log_sum_exp(x: torch.Tensor, dim: int, keepdim: bool = False) -> torch.Tensor:
    """With what PyTorch's own allocates: a tensor like `x`, inside of the op."""
    highest = x.amax(dim, keepdim=True)
    found = (x - highest).exp_().sum(dim, keepdim=keepdim).log_()
    return found.add_(highest if keepdim else highest.squeeze(dim))


class _ExpertsProduct(torch.autograd.Function):
    """(S, I), (E, I, O) -> (S, O); the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.in_features = x.shape[-1]
        return x.new_empty(len(x), weight.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grad.new_empty(len(grad), ctx.in_features), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What `scaled_dot_product_attention` calls on a CPU, where queries and values are alike."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
    fewer_heads = query.shape[1] != key.shape[1] and not enable_gqa
    # Then it is written out there too, and keeps the scores.
    if value.shape[-1] != query.shape[-1] or fewer_heads:
        return kernels.masked_attention(query, key, value, attn_mask, scaling=scale)
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return attend(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
