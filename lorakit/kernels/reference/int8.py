"""Eight-bit codes with one scale per row, as LLM.int8 stores its weights (arXiv 2208.07339), in
plain PyTorch.

The bytes are bitsandbytes': the weight is rounded to float16 first, and the formulas follow the
order of operations of its CPU backend, because equal bytes need equal roundings. Only the weight is
quantized here; LLM.int8 quantizes the activations as well and keeps outlier columns of them in 16
bit, which is a choice of the matrix product and not of the storage.

R rows (the product of all dimensions but the last), I columns.
"""

from __future__ import annotations

import torch

from lorakit.kernels.reference.four_bit import CHUNK_WEIGHTS, CHUNK_WEIGHTS_ELSEWHERE

LARGEST_CODE = 127.0
INVERSE = 7.874015718698502e-3  # 1 / 127, as bitsandbytes writes it


def int8_quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize row by row, symmetrically around zero.

    Args:
        weight: (..., I), floating point; a magnitude over 65504 becomes infinite in float16, and
            its scale with it.

    Returns:
        codes int8 of the weight's shape, and the largest magnitude of each row, float32 (...).
    """
    rows = weight.reshape(-1, weight.shape[-1])
    codes = torch.empty(rows.shape, dtype=torch.int8, device=weight.device)
    absmax = torch.empty(rows.shape[0], dtype=torch.float32, device=weight.device)
    for part in _row_slices(rows):
        half = rows[part].half().float()
        largest = half.abs().amax(dim=1)
        # A row of zeros has the codes zero.
        factor = torch.where(largest > 0, LARGEST_CODE / largest, 0.0)
        codes[part] = (half * factor[:, None]).round_().to(torch.int8)
        absmax[part] = largest
    return codes.view(weight.shape), absmax.view(weight.shape[:-1])


def int8_dequantize(codes: torch.Tensor, absmax: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The dense weight: float32 `code * absmax / 127`, then rounded once to `dtype`.

    Args:
        codes: int8 (..., I).
        absmax: float32 (...).
        dtype: of the result.

    Returns:
        The shape of `codes`, on its device.
    """
    out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    if out.is_meta:
        return out
    rows, flat = codes.reshape(-1, codes.shape[-1]), out.view(-1, codes.shape[-1])
    scales = absmax.reshape(-1, 1)
    for part in _row_slices(rows):
        flat[part] = rows[part].float().mul_(scales[part]).mul_(INVERSE)
    return out


def _row_slices(rows: torch.Tensor) -> list[slice]:
    """Slices of whole rows that bound the float32 temporaries."""
    weights = CHUNK_WEIGHTS.get(rows.device.type, CHUNK_WEIGHTS_ELSEWHERE)
    step = max(1, weights // rows.shape[1])
    return [slice(start, start + step) for start in range(0, rows.shape[0], step)]
