"""What a token leaves in memory between forward and backward pass, layer by layer.

Of the fast modules it is known what they keep; of all others it is estimated as what goes into and
comes out of their linear layers. Attention is counted as if it kept no scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lorakit import kernels
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.frozen_experts import FrozenExperts, rows_per_token
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.engine.modules import FusedAttention, FusedGatedMLP, FusedRMSNorm


@dataclass(frozen=True)
class LayerBytes:
    """Bytes per token that one layer keeps, at each level of recompute (see `recompute.py`)."""

    none: int
    selective: int
    full: int


def decoder_layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """The layers that can be recomputed, in their order; none for some families."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def layer_bytes(model: PreTrainedModel, itemsize: int) -> list[LayerBytes]:
    """One for each of `decoder_layers`, or one for the whole backbone of a family without;
    `model` with its fast modules in place.

    Args:
        itemsize: bytes of one number the base computes with.
    """
    config = model.config.get_text_config()
    found = []
    parts: Sequence[nn.Module] = decoder_layers(model) or [model.base_model]
    for layer in parts:
        counted = _Counted(config)
        counted.add(layer)
        none = counted.kept + counted.made_again
        full = config.hidden_size
        found.append(
            LayerBytes(*(max(words, full) * itemsize for words in (none, counted.kept, full)))
        )
    return found


class _Counted:
    """Numbers kept per token: always, and what the level "selective" makes again."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config
        self.kept = 0
        self.made_again = 0

    def add(self, module: nn.Module) -> None:
        children = dict(module.named_children())
        fast = not kernels.is_reference_forced()
        if fast and isinstance(module, FusedGatedMLP):
            gate, up, down = (children.pop(f"{name}_proj") for name in ("gate", "up", "down"))
            self.kept += _inputs(gate) + _low_rank(down) + _kept_output(down)
            self.made_again += _low_rank(gate) + _low_rank(up) + _outputs(gate) + _outputs(up)
        elif fast and isinstance(module, FusedAttention):
            parts = [children.pop(f"{name}_proj") for name in ("q", "k", "v")]
            query, key, value = parts
            self.kept += _inputs(query) + sum(_low_rank(one) + _outputs(one) for one in parts)
            turned = _outputs(query) + _outputs(key)  # by the rotary embedding, or a norm before it
            if {"q_norm", "k_norm"} <= children.keys():
                del children["q_norm"], children["k_norm"]
                self.kept += turned
                self.kept += _kept_output(query) + _kept_output(key)
            elif _keeps_output(query):
                self.kept += turned
            if value.bias is not None:
                self.kept += _kept_output(value)  # before the bias is added
        elif fast and isinstance(module, FusedRMSNorm):
            self.kept += 0 if module.keep_output else self.config.hidden_size
        elif isinstance(module, AdaptedLinear):
            children = {}
            self.kept += _inputs(module) + _low_rank(module) + _kept_output(module)
        elif isinstance(module, nn.Linear | FrozenLinear):
            self.kept += module.in_features + module.out_features
        elif isinstance(module, FrozenExperts):
            rows = rows_per_token(module, self.config)
            self.kept += rows * (module.in_features + module.out_features)
        elif "norm" in type(module).__name__.lower():
            self.kept += self.config.hidden_size
        for child in children.values():
            self.add(child)


def _inputs(layer: nn.Module) -> int:
    return layer.in_features  # type: ignore[return-value]


def _outputs(layer: nn.Module) -> int:
    return layer.out_features  # type: ignore[return-value]


def _low_rank(layer: nn.Module) -> int:
    return layer.adapter.r if isinstance(layer, AdaptedLinear) else 0


def _keeps_output(layer: nn.Module) -> bool:
    return isinstance(layer, AdaptedLinear) and layer.adapter.KEEPS_OUTPUT


def _kept_output(layer: nn.Module) -> int:
    return _outputs(layer) if _keeps_output(layer) else 0
