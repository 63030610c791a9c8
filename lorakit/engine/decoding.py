"""Modules for passes of a token or two of each sequence that is being generated: such a pass is so
short that what its ops cost to be called counts more than what they compute, so there are few.

They compute what transformers' do, from weights that do not change while they stand.

T tokens, I in_features, O out_features, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lorakit.base.attention import attend_over_slots
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.hooks import is_watched
from lorakit.base.kv_slots import KVSlots
from lorakit.base.storages.dense import DenseWeight
from lorakit.engine.modules import Stand


class DecodingRMSNorm(Stand):
    """Llama's RMSNorm, of float32."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        (original,) = self.original
        weight = original.weight
        # Of other dtypes the op rounds once, and the module twice. Asked at each call: a norm that
        # trains has a weight of float32, and is called with it cast to the base's dtype.
        if not weight.dtype == hidden_states.dtype == torch.float32:
            return original(hidden_states)
        return nn.functional.rms_norm(
            hidden_states, weight.shape, weight, original.variance_epsilon
        )


class DecodingGatedMLP(Stand):
    """Llama's MLP with the activation SiLU.

    Args:
        gate_up: both projections.
    """

    def __init__(self, original: nn.Module, gate_up: JointLinear) -> None:
        super().__init__(original)
        self._gate_up = gate_up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != self._gate_up.dtype:
            return self.original[0](x)
        gate, up = self._gate_up(x.flatten(0, -2)).chunk(2, dim=-1)
        hidden = nn.functional.silu(gate, inplace=True).mul_(up)
        return self._modules["down_proj"](hidden.view(*x.shape[:-1], hidden.shape[-1]))  # type: ignore[misc]


class DecodingAttention(Stand):
    """Attention over slots, with Llama's rotary embedding.

    Args:
        original: the module.
        projections: of queries, keys and values.
        options: see `FusedAttention`.
    """

    def __init__(
        self, original: nn.Module, projections: JointLinear, options: dict[str, Any]
    ) -> None:
        super().__init__(original)
        self._projections = projections
        self._options = options
        size = self.original[0].head_dim
        self._num_heads, self._num_kv_heads, _ = (n // size for n in projections.sizes)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        kv_slots: KVSlots | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        (original,) = self.original
        is_other = hidden_states.dtype != self._projections.dtype
        if kv_slots is None or position_embeddings is None or is_other:
            return original(
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                kv_slots=kv_slots,
                **kwargs,
            )
        heads, turned = self._num_heads, self._num_heads + self._num_kv_heads
        all_TND = self._projections(hidden_states[0])
        all_TND = all_TND.view(len(all_TND), -1, original.head_dim)
        if "q_norm" in self._modules:
            for name, part in (("q_norm", slice(heads)), ("k_norm", slice(heads, turned))):
                all_TND[:, part] = self._modules[name](all_TND[:, part])  # type: ignore[misc]
        turn_(all_TND[:, :turned], position_embeddings, kv_slots)
        all_NTD = all_TND.transpose(0, 1)
        out_THD = attend_over_slots(
            kv_slots,
            all_NTD[:heads],
            all_NTD[heads:turned],
            all_NTD[turned:],
            both_TKD=all_TND[:, heads:],
            scaling=original.scaling,
            **self._options,
        )
        return self._modules["o_proj"](out_THD.flatten(1)[None]), None  # type: ignore[misc]


def turn_(
    x_TND: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor], kv_slots: KVSlots
) -> None:
    """Llama's rotary embedding (arXiv 2104.09864) in place, of queries and keys at once.

    Args:
        x_TND: their heads.
        tables: cosine and sine of each token's positions, (1, T, D).
        kv_slots: of the pass.
    """
    cos, sin = tables

    def signed() -> tuple[torch.Tensor, torch.Tensor]:
        half = sin.shape[-1] // 2
        return cos[0, :, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)[:, None]

    cos_T1D, sin_T1D = kv_slots.once_a_pass(("turn", id(cos)), signed)
    half = x_TND.shape[-1] // 2
    other_TND = torch.cat([x_TND[..., half:], x_TND[..., :half]], dim=-1)  # roll takes more ops
    x_TND.mul_(cos_T1D).add_(other_TND.mul_(sin_T1D))


class JointLinear:
    """Linear layers of one input, as one product where their weights lie behind one another.

    Attributes:
        sizes: their out_features.
        dtype: of weights, and of inputs.
    """

    def __init__(self, layers: Sequence[FrozenLinear | nn.Linear]) -> None:
        weights = [_weight(layer) for layer in layers]
        self.sizes = [len(weight) for weight in weights]
        self.dtype = weights[0].dtype
        self._joint_OI = _joined(weights)
        self._weights_IO = [weight.t() for weight in weights]
        self._bias_O = None
        if any(layer.bias is not None for layer in layers):
            self._bias_O = torch.cat(
                [
                    weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
                    for layer, weight in zip(layers, weights, strict=True)
                ]
            )

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        """(T, O), the outputs of all layers behind one another."""
        if self._joint_OI is not None:
            return nn.functional.linear(x_TI, self._joint_OI, self._bias_O)
        out_TO = x_TI.new_empty(len(x_TI), sum(self.sizes))
        for weight_IO, part in zip(self._weights_IO, out_TO.split(self.sizes, 1), strict=True):
            torch.mm(x_TI, weight_IO, out=part)
        return out_TO if self._bias_O is None else out_TO.add_(self._bias_O)


def joint_linear(*layers: nn.Module | None) -> JointLinear | None:
    """Of dense layers of one dtype; None: one of them is not."""
    found = []
    for layer in layers:
        is_dense = isinstance(layer, FrozenLinear) and isinstance(layer.stored, DenseWeight)
        if layer is None or is_watched(layer) or not (is_dense or type(layer) is nn.Linear):
            return None
        found.append(layer)
    dtypes = {tensor.dtype for layer in found for tensor in layer.parameters()}
    return JointLinear(found) if len(dtypes) == 1 else None  # type: ignore[arg-type]


def _weight(layer: FrozenLinear | nn.Linear) -> torch.Tensor:
    weight = layer.stored.dequantize() if isinstance(layer, FrozenLinear) else layer.weight
    return weight.detach()


def _joined(weights: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """All of them as one (O, I) over the same memory; None where they do not lie so."""
    first = weights[0]
    storage, place = first.untyped_storage(), first.storage_offset()
    for weight in weights:
        follows = weight.untyped_storage()._cdata == storage._cdata
        if not (follows and weight.storage_offset() == place and weight.is_contiguous()):
            return None
        place += weight.numel()
    columns = first.shape[1]
    rows = sum(map(len, weights))
    return first.as_strided((rows, columns), (columns, 1), first.storage_offset())
