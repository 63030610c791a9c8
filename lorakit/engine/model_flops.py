"""The floating-point operations of a run, counted on the model's real modules.

A product of (m, k) and (k, n) counts 2 m k n. Attention counts the pairs of tokens that see each
other: 4 h per pair forward (scores and their product with the values; h all heads together), 2.5
times that backward, which makes the scores again (arXiv 2205.14135).

T tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lorakit.adapters.attach import Attached
from lorakit.adapters.experts import AdaptedExperts
from lorakit.adapters.modules import AdaptedLinear, TrainedCopy
from lorakit.base.families import DEFAULT, FAMILIES
from lorakit.base.frozen_experts import FrozenExperts, rows_per_token
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.engine.activations import LayerBytes, decoder_layers, layer_bytes
from lorakit.engine.flops import AdaptedShape
from lorakit.engine.fuse import fused_modules
from lorakit.engine.passes import Pass
from lorakit.engine.recompute import Level, RecomputePolicy

ATTENTION_BACKWARD = 2.5
# Projections that read the same input: nothing below the first such group trains.
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
MULTIPLYING = (
    AdaptedLinear | AdaptedExperts | TrainedCopy | FrozenLinear | FrozenExperts | nn.Linear
)
# Layers of these types keep a state instead of looking back at every token.
RECURRENT = ("linear_attention", "mamba", "conv", "recurrent")
MLP_ALONE = ("moe", "mlp")


@dataclass(frozen=True)
class LayerFlops:
    """Of a pass through decoder layers.

    Attributes:
        forward: of every token, forward pass.
        backward: of the gradients of activations and trained parameters.
        recompute: of what the backward pass makes again.
    """

    forward: float
    backward: float
    recompute: float

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.recompute


@dataclass(frozen=True)
class LayerWork:
    """What a token and a pair of tokens cost in one decoder layer.

    Attributes:
        forward, backward: of a token, attention's pairs left out.
        pairs: ((window, or None: operations of a pair of tokens, forward), ...).
        mlp_again: of a token, where gate and up are made again.
    """

    forward: float
    backward: float
    pairs: tuple[tuple[int | None, float], ...]
    mlp_again: float

    def of_forward(self, one: Pass) -> float:
        """Of a pass that trains nothing."""
        return self.forward * one.tokens + self._attention(one)

    def of_training(self, one: Pass, level: Level) -> LayerFlops:
        """Of a micro-batch of the training, at a level of recompute."""
        attention = self._attention(one)
        forward = self.forward * one.tokens + attention
        again = {"none": 0.0, "selective": self.mlp_again * one.tokens, "full": forward}[level]
        if not self.backward:  # nothing below it or in it trains
            return LayerFlops(forward, 0.0, 0.0)
        return LayerFlops(
            forward, self.backward * one.tokens + ATTENTION_BACKWARD * attention, again
        )

    def _attention(self, one: Pass) -> float:
        return sum(cost * visible_pairs(one.lengths, window) for window, cost in self.pairs)


@dataclass(frozen=True)
class ModelFlops:
    """What a token, a pair of tokens, a trained position and a step cost.

    Attributes:
        layers: each decoder layer, or the whole backbone of a family without; what lies outside of
            them is spread over them.
        head: of a trained position, forward.
        head_backward: of it, backward: twice where the head trains too.
        step: of an optimizer step, whatever its tokens (DoRA: the row norms).
        layer_bytes: what each layer keeps of a token, for the levels of recompute.
    """

    layers: tuple[LayerWork, ...]
    head: float
    head_backward: float
    step: float
    layer_bytes: Sequence[LayerBytes]

    @property
    def forward(self) -> float:
        """Of a token in all layers, attention's pairs left out."""
        return sum(layer.forward for layer in self.layers)

    @property
    def backward(self) -> float:
        """As `forward`, of the gradients."""
        return sum(layer.backward for layer in self.layers)

    def levels(self, one: Pass, policy: RecomputePolicy) -> list[Level]:
        """The level of recompute of each layer in a micro-batch of the training."""
        levels = policy.levels(self.layer_bytes, one.tokens)
        return levels or ["none"] * len(self.layers)

    def in_layers(self, one: Pass, policy: RecomputePolicy) -> LayerFlops:
        """Of a micro-batch of the training in all layers."""
        counted = Counter(zip(self.layers, self.levels(one, policy), strict=True))
        found = [(layer.of_training(one, level), n) for (layer, level), n in counted.items()]
        return LayerFlops(
            sum(n * flops.forward for flops, n in found),
            sum(n * flops.backward for flops, n in found),
            sum(n * flops.recompute for flops, n in found),
        )

    def training(self, one: Pass, policy: RecomputePolicy) -> float:
        """Of a micro-batch of the training, its output head included."""
        head = (self.head + self.head_backward) * one.trained
        return self.in_layers(one, policy).total + head

    def evaluation(self, one: Pass) -> float:
        """Of a pass that measures a loss."""
        layers = sum(n * layer.of_forward(one) for layer, n in Counter(self.layers).items())
        return layers + self.head * one.trained


def visible_pairs(lengths: Sequence[int], window: int | None) -> float:
    """Pairs of tokens of which the later sees the earlier, itself included."""
    length = np.asarray(lengths, dtype=np.float64)
    seen = length if window is None else np.minimum(length, window)
    return float((seen * (seen + 1) / 2 + (length - seen) * seen).sum())


def count_flops(model: PreTrainedModel, adapter: Attached, itemsize: int) -> ModelFlops:
    """Count on a model with its adapter attached, on the meta device or loaded.

    Args:
        itemsize: bytes of one number the base computes with.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    parts = decoder_layers(model)
    place_of = {id(module): place for place, part in enumerate(parts) for module in part.modules()}
    num_layers = max(1, len(parts))
    forward, backward = np.zeros(num_layers), np.zeros(num_layers)
    step = 0.0
    for module, below_trains, read_trains in _multiplying(model, adapter):
        if module is head:
            continue
        one = _of_token(module, config, input_gradient=below_trains)
        # What is no part of a layer is spread over them.
        place, share = place_of.get(id(module), slice(None)), 1.0
        if isinstance(place, slice):
            share = 1 / num_layers
        forward[place] += share * one[0]
        backward[place] += share * one[1] if read_trains else 0.0
        if isinstance(module, AdaptedLinear):
            step += _shape(module, below_trains).norm_flops()
    size = 2 * config.hidden_size * config.vocab_size
    head_trains = head is not None and any(p.requires_grad for p in head.parameters())
    with fused_modules(model):
        kept = layer_bytes(model, itemsize)
    pairs = _pairs(config, num_layers)
    return ModelFlops(
        layers=tuple(
            LayerWork(
                float(forward[place]),
                float(backward[place]),
                pairs[place],
                _gate_and_up(parts[place]) if parts else 0.0,
            )
            for place in range(num_layers)
        ),
        head=size,
        head_backward=size * (2 if head_trains else 1),
        step=step,
        layer_bytes=kept,
    )


def _multiplying(
    model: PreTrainedModel, adapter: Attached
) -> Iterable[tuple[nn.Module, bool, bool]]:
    """(module with a weight, whether its input needs a gradient, whether its output does)."""
    trained = {id(parameter) for parameter in adapter.parameters().values()}
    started: tuple[str, ...] | None = None  # what reads the same input as the first that trains
    owner = ""
    inside: str | None = None
    for name, module in model.named_modules():
        if inside is not None and name.startswith(inside):
            continue
        trains = any(id(p) in trained for p in module.parameters())
        weighty = isinstance(module, MULTIPLYING)
        embeds = trains and not weighty and not list(module.children())
        if not weighty and not embeds:
            continue
        inside = f"{name}."
        parent, _, leaf = name.rpartition(".")
        if started is None and trains:
            group = next((g for g in SAME_INPUT if leaf in g), (leaf,))
            started, owner = (() if embeds else group), parent
            if weighty:
                yield module, False, True
            continue
        if weighty:
            beside = started is not None and parent == owner and leaf in started
            below = started is not None and not beside
            yield module, below, started is not None and (below or trains)


def _of_token(
    module: nn.Module, config: PreTrainedConfig, *, input_gradient: bool
) -> tuple[float, float]:
    """(forward, backward) of one token."""
    if isinstance(module, AdaptedLinear):
        shape = _shape(module, input_gradient)
        return shape.forward_flops(1), shape.backward_flops(1)
    if isinstance(module, AdaptedExperts):
        frozen = module.base_layer
        rows, factors = rows_per_token(frozen, config), module.adapter
        shape = AdaptedShape(frozen.in_features, frozen.out_features, factors.r, input_gradient)
        return rows * shape.forward_flops(1), rows * shape.backward_flops(1)
    if isinstance(module, FrozenExperts):
        size = 2 * rows_per_token(module, config) * module.in_features * module.out_features
        return size, size * input_gradient
    if isinstance(module, TrainedCopy):
        size = 2 * sum(p.numel() for p in module.trained.parameters())
        return size, size * (1 + input_gradient)
    assert isinstance(module, FrozenLinear | nn.Linear)
    size = 2 * module.in_features * module.out_features
    return size, size * input_gradient


def _shape(module: AdaptedLinear, input_gradient: bool) -> AdaptedShape:
    return AdaptedShape(
        module.in_features,
        module.out_features,
        module.adapter.r,
        input_gradient=input_gradient,
        has_norms=module.adapter.KEEPS_OUTPUT,
    )


def _pairs(config: PreTrainedConfig, num_layers: int) -> list[tuple[tuple[int | None, float], ...]]:
    """`LayerWork.pairs` of each layer; where layers cannot be told apart each has its share."""
    values = config.to_dict()
    window = _value(config, values, "sliding_window")
    if not values.get("use_sliding_window", True):
        window = None
    # A field of some configs, of hybrids often a property; of old ones neither.
    given = getattr(config, "layer_types", None)
    types = given or ["full_attention"] * config.num_hidden_layers
    own = values.get("per_layer_config") or {}  # {number of a layer: fields in which it differs}
    found: list[dict[int | None, float]] = []
    for place, kind in enumerate(types):
        pair = _of_pair(config, values | own.get(str(place), {}))
        if kind.startswith(RECURRENT + MLP_ALONE) or not pair:
            found.append({})
            continue
        # Of configs without types, a window is of every layer.
        width = window if given is None or kind != "full_attention" else None
        found.append({width: pair})
    if len(found) == num_layers:
        return [tuple(one.items()) for one in found]
    total: Counter[int | None] = Counter()
    for one in found:
        total.update(one)
    return [tuple((width, cost / num_layers) for width, cost in total.items())] * num_layers


def _of_pair(config: PreTrainedConfig, values: Mapping[str, Any]) -> float:
    """Forward, of all heads together: a query with a key, and the score times the values, as often
    as a layer attends; 0 where nothing does."""
    heads = _value(config, values, "num_attention_heads")
    if not isinstance(heads, int):
        return 0.0
    # Multi-head latent attention: what turns and what does not, and values of another size.
    turning, fixed = values.get("qk_rope_head_dim"), values.get("qk_nope_head_dim")
    if turning and fixed:
        return 2.0 * heads * (turning + fixed + values["v_head_dim"])
    width = _value(config, values, "head_dim") or config.hidden_size // heads
    calls = FAMILIES.get(config.model_type, DEFAULT).attention_calls
    return 2.0 * calls * heads * (width + (values.get("v_head_dim") or width))


def _value(config: PreTrainedConfig, values: Mapping[str, Any], name: str) -> Any:
    """A field by its usual name, which a model_type may write otherwise: n_head, num_heads."""
    return values.get(config.attribute_map.get(name, name))


def _gate_and_up(layer: nn.Module) -> float:
    """Of a token, what the level "selective" multiplies again in a layer."""
    total = 0.0
    for name, module in layer.named_modules():
        if name.rpartition(".")[2] in ("gate_proj", "up_proj") and isinstance(
            module, AdaptedLinear
        ):
            total += _shape(module, True).forward_flops(1)
    return total
