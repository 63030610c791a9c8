"""The ops lorakit computes with.

`reference/` holds the definition of every op in plain PyTorch, `cpu/` and `triton/` faster backends
for some of them, `fused/` several ops as one autograd function. `dispatch.py` chooses;
tests/kernels hold every backend to the reference.
"""

from __future__ import annotations

from lorakit.kernels.dispatch import (
    REFERENCE,
    backend_name,
    computing_type,
    dequantize_scales,
    four_bit_dequantize,
    four_bit_quantize,
    is_reference_forced,
    is_rehearsal,
    reference_only,
    shapes_only,
)
from lorakit.kernels.fused.experts import (
    Routing,
    collect_from_experts,
    grouped_projection,
    rows_per_expert,
    send_to_experts,
)
from lorakit.kernels.fused.gated_mlp import gated_mlp
from lorakit.kernels.fused.linear_cross_entropy import linear_cross_entropy
from lorakit.kernels.fused.linear_logprobs import linear_logprobs
from lorakit.kernels.fused.packed_attention import packed_attention
from lorakit.kernels.fused.projections import Dropped, Projection, RowScale, projections
from lorakit.kernels.fused.rms_norm import frozen_rms_norm, may_keep_output
from lorakit.kernels.fused.rotary import rotary
from lorakit.kernels.reference.attention import (
    decode_attention,
    masked_attention,
)
from lorakit.kernels.reference.autocast import autocasts, without_autocast
from lorakit.kernels.reference.dropout import dropout_mask, mix_keys, module_key
from lorakit.kernels.reference.dynamic8 import dequantize_dynamic, quantize_dynamic
from lorakit.kernels.reference.four_bit import quantize_scales
from lorakit.kernels.reference.frozen_linear import frozen_linear
from lorakit.kernels.reference.grouped_linear import frozen_grouped_linear, grouped_linear
from lorakit.kernels.reference.int8 import int8_dequantize, int8_quantize

__all__ = [
    "REFERENCE",
    "Dropped",
    "Projection",
    "Routing",
    "RowScale",
    "autocasts",
    "backend_name",
    "collect_from_experts",
    "computing_type",
    "decode_attention",
    "dequantize_dynamic",
    "dequantize_scales",
    "dropout_mask",
    "four_bit_dequantize",
    "four_bit_quantize",
    "frozen_grouped_linear",
    "frozen_linear",
    "frozen_rms_norm",
    "gated_mlp",
    "grouped_linear",
    "grouped_projection",
    "int8_dequantize",
    "int8_quantize",
    "is_reference_forced",
    "is_rehearsal",
    "linear_cross_entropy",
    "linear_logprobs",
    "masked_attention",
    "may_keep_output",
    "mix_keys",
    "module_key",
    "packed_attention",
    "projections",
    "quantize_dynamic",
    "quantize_scales",
    "reference_only",
    "rotary",
    "rows_per_expert",
    "send_to_experts",
    "shapes_only",
    "without_autocast",
]
