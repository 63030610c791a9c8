"""8-bit block-wise codes: the nearest code by definition, bitsandbytes' maps and codes."""

from __future__ import annotations

import pytest
import torch

from lorakit import kernels
from lorakit.kernels.reference import dynamic8
from lorakit.kernels.reference.dynamic8 import BLOCK_SIZE, dynamic_map

CPU = torch.device("cpu")
SIZES = [1, 255, 256, 257, 512, 1000, 3 * 256 + 17]


def _values(size: int, *, signed: bool, decades: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    scale = torch.exp(decades * torch.randn(size, generator=generator))
    values = torch.randn(size, generator=generator) * scale
    return values if signed else values.square()


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dynamic8.CHUNK_VALUES, "cpu", 2 * BLOCK_SIZE)


def _by_definition(values: torch.Tensor, *, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales by comparing with every code, in float64."""
    table = dynamic_map(CPU, signed=signed).double()
    codes, absmax = [], []
    for block in values.split(BLOCK_SIZE):
        absmax.append(block.abs().max())
        scaled = (block * (1.0 / absmax[-1].clamp(min=1e-38))).double()
        codes.append((scaled[:, None] - table).abs().argmin(dim=1))
    return torch.cat(codes).to(torch.uint8), torch.stack(absmax)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_every_value_gets_the_nearest_code(size: int, signed: bool) -> None:
    for decades in (0.0, 1.0, 3.0):
        values = _values(size, signed=signed, decades=decades)
        codes, absmax = kernels.quantize_dynamic(values, signed=signed)
        expected, scales = _by_definition(values, signed=signed)
        assert torch.equal(absmax, scales)
        assert codes.dtype == torch.uint8 and torch.equal(codes, expected)


@pytest.mark.parametrize("signed", [True, False])
def test_values_around_every_midpoint_and_code(signed: bool) -> None:
    table = dynamic_map(CPU, signed=signed)
    midpoints = (table[:-1] + table[1:]) / 2
    lowest, highest = torch.tensor(-2.0), torch.tensor(2.0)
    around = torch.cat(
        [p for t in (table, midpoints) for p in (t, t.nextafter(lowest), t.nextafter(highest))]
    )
    around = around[around.abs() <= 1]
    # A scale of 1 in every block: what is looked up is the value itself.
    blocks = torch.nn.functional.pad(around, (0, -around.numel() % (BLOCK_SIZE - 1)))
    blocks = torch.nn.functional.pad(blocks.view(-1, BLOCK_SIZE - 1), (0, 1), value=1.0)
    if not signed:
        blocks = blocks.abs()
    codes, absmax = kernels.quantize_dynamic(blocks.reshape(-1), signed=signed)
    assert torch.equal(absmax, torch.ones(len(blocks)))
    # A tie goes to the lower code.
    assert torch.equal(codes.int(), torch.bucketize(blocks.view(-1), midpoints, out_int32=True))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_decoding_is_the_map_times_the_scale(size: int, signed: bool) -> None:
    generator = torch.Generator().manual_seed(size)
    codes = torch.randint(0, 256, (size,), generator=generator).to(torch.uint8)
    absmax = torch.rand(-(-size // BLOCK_SIZE), generator=generator) * 1e-3
    values = kernels.dequantize_dynamic(codes, absmax, signed=signed)
    table = dynamic_map(CPU, signed=signed)
    expected = table[codes.long()] * absmax.repeat_interleave(BLOCK_SIZE)[:size]
    assert torch.equal(values, expected)


@pytest.mark.parametrize("signed", [True, False])
def test_what_is_decoded_is_encoded_as_the_same(signed: bool) -> None:
    values = _values(1000, signed=signed)
    codes, absmax = kernels.quantize_dynamic(values, signed=signed)
    again, scales = kernels.quantize_dynamic(
        kernels.dequantize_dynamic(codes, absmax, signed=signed), signed=signed
    )
    # 1 is a code, -1 is not: a block whose largest value is negative comes back a little smaller.
    kept = scales == absmax
    assert kept.all() or signed
    whole = kept.repeat_interleave(BLOCK_SIZE)[: codes.numel()]
    assert torch.equal(again[whole], codes[whole])


@pytest.mark.parametrize("signed", [True, False])
def test_zeros_stay_zeros_and_huge_and_tiny_scales_work(signed: bool) -> None:
    for scale in (0.0, 1e-45, 1e-37, 1e37, 3e38):
        values = torch.full((300,), scale)
        values[::2] = 0
        codes, absmax = kernels.quantize_dynamic(values, signed=signed)
        decoded = kernels.dequantize_dynamic(codes, absmax, signed=signed)
        assert torch.isfinite(decoded).all() and torch.equal(decoded[::2], torch.zeros(150))
        if scale > 1e-38:
            assert torch.equal(decoded, values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_spoils_its_own_block_only(bad: float) -> None:
    values = _values(1000, signed=True)
    clean, scales = kernels.quantize_dynamic(values, signed=True)
    values[300] = bad
    codes, absmax = kernels.quantize_dynamic(values, signed=True)
    assert not torch.isfinite(absmax[1])
    elsewhere = torch.arange(1000) // BLOCK_SIZE != 1
    assert torch.equal(codes[elsewhere], clean[elsewhere])
    assert torch.equal(absmax[[0, 2, 3]], scales[[0, 2, 3]])


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_maps_and_codes_are_bitsandbytes(size: int, signed: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    table = functional.create_dynamic_map(signed=signed)
    assert torch.equal(dynamic_map(CPU, signed=signed), table)
    values = _values(size, signed=signed)
    codes, absmax = kernels.quantize_dynamic(values, signed=signed)
    # In float64 its CPU backend compares with every code; in float32 it looks them up on a grid.
    operation = torch.ops.bitsandbytes.quantize_blockwise
    theirs, scales = operation(values.double(), table, BLOCK_SIZE)
    assert torch.equal(absmax, scales) and torch.equal(codes, theirs)
    decoded = kernels.dequantize_dynamic(codes, absmax, signed=signed)
    assert torch.equal(
        decoded,
        functional.dequantize_blockwise(codes, absmax=absmax, code=table, blocksize=BLOCK_SIZE),
    )
