"""Int8: bytes and values equal to bitsandbytes' CPU backend, and its definition against float64."""

from __future__ import annotations

import pytest
import torch

from lorakit.base.storages import int8
from lorakit.errors import InputError
from lorakit.kernels.reference.four_bit import CHUNK_WEIGHTS
from tests.tolerances import relative_error

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 1), (1, 7), (37, 53), (64, 64), (300, 1), (513, 257)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_and_values_equal_bitsandbytes(dtype: torch.dtype) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weights = [torch.randn(shape).to(dtype) for shape in SHAPES]
    weights += [
        torch.full((3, 5), -2.5).to(dtype),
        torch.tensor([[1.0, 0.5 / 127, -1.5 / 127, 2.5 / 127]]).to(dtype),  # ties
        (torch.randn(9, 64) * torch.logspace(-6, 3, 9)[:, None]).to(dtype),
    ]
    for weight in weights:
        # As a Linear8bitLt does when it is moved to its device.
        theirs = bitsandbytes.nn.Int8Params(weight.clone(), requires_grad=False).to("cpu")
        ours = int8.quantize(weight)
        assert torch.equal(ours.codes, theirs.data)
        assert torch.equal(ours.absmax, theirs.SCB)
        dense = bitsandbytes.functional.int8_vectorwise_dequant(theirs.data, theirs.SCB)
        assert torch.equal(ours.dequantize(torch.float32), dense)
        assert ours.dequantize().dtype == dtype


def test_codes_and_values_against_float64() -> None:
    for shape in [*SHAPES, (3, 5, 7), (2, 3, 4, 6)]:
        weight = torch.randn(shape, dtype=torch.float64)
        packed = int8.quantize(weight)
        half = weight.half().double()
        absmax = half.abs().amax(-1)
        assert packed.absmax.shape == shape[:-1]
        assert torch.equal(packed.absmax.double(), absmax)
        exact = packed.codes.double() * absmax.unsqueeze(-1) / 127
        assert relative_error(packed.dequantize(torch.float64), exact) < 1e-6
        # The nearest of 255 values of the row, but for ties that float32 decides.
        assert torch.all((half - exact).abs() <= absmax.unsqueeze(-1) / 254 * (1 + 1e-5))


def test_rows_of_zeros_stay_zero() -> None:
    packed = int8.quantize(torch.zeros(3, 5))
    assert not packed.codes.any() and not packed.absmax.any()
    assert torch.equal(packed.dequantize(), torch.zeros(3, 5))


def test_chunks_do_not_change_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(3, 41, 37)
    whole = int8.quantize(weight)
    dense = whole.dequantize()
    for limit in (1, 100):
        monkeypatch.setitem(CHUNK_WEIGHTS, "cpu", limit)
        again = int8.quantize(weight)
        assert torch.equal(again.codes, whole.codes) and torch.equal(again.absmax, whole.absmax)
        assert torch.equal(again.dequantize(), dense)


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(4, 4, dtype=torch.int8),
        torch.zeros(0, 4),
        torch.full((2, 2), 1e5),
        torch.full((2, 2), float("nan")),
    ],
)
def test_what_cannot_be_quantized_is_refused(weight: torch.Tensor) -> None:
    with pytest.raises(InputError, match="possible"):
        int8.quantize(weight)
