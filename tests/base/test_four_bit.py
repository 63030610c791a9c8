"""The 4-bit storages: bytes and values equal to bitsandbytes' CPU backend, on random and real
odd-sized tensors.

There are no ties to list: our writer takes the same detours (see `kernels/reference/four_bit.py`).
The one exception is in reading: bitsandbytes' AVX-512 kernel takes a wrong scale where a block
crosses the end of a row (blocks do not divide the row); there its generic code is the peer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import lorakit
from lorakit.base import four_bit
from lorakit.base.four_bit import BLOCK_SIZES
from lorakit.base.storages import quantizations
from lorakit.errors import InputError
from lorakit.kernels.reference.dynamic8 import dynamic_map
from lorakit.kernels.reference.four_bit import CHUNK_WEIGHTS, CODE_VALUES, code_values
from tests.base import bitsandbytes_peer
from tests.tolerances import relative_error

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Rows of 4096 are whole blocks of every size: bitsandbytes' own kernel is the peer for each.
SHAPES = [
    (1, 1),
    (1, 7),
    (37, 53),
    (64, 64),
    (128, 130),
    (300, 1),
    (513, 257),
    (3, 5, 7),
    (16, 4096),
]
CODE_BOOKS = list(CODE_VALUES)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def peer():
    """bitsandbytes' functions; imported here because the package never does."""
    pytest.importorskip("bitsandbytes")
    import bitsandbytes.functional as functional

    return functional


def peer_dequantize(peer, codes: torch.Tensor, state) -> torch.Tensor:
    if state.shape[-1] % state.blocksize == 0:
        return peer.dequantize_4bit(codes, state)
    return bitsandbytes_peer.dequantize(codes, state)


def assert_equal_to_peer(
    peer, weight: torch.Tensor, code_book: str, block_size: int, double: bool
) -> None:
    codes, state = peer.quantize_4bit(
        weight, blocksize=block_size, compress_statistics=double, quant_type=code_book
    )
    ours = four_bit.quantize(weight, code_book, block_size, double)
    assert torch.equal(ours.codes, codes.flatten())
    assert torch.equal(ours.absmax, state.absmax)
    assert ours.absmax.dtype == state.absmax.dtype
    if double:
        assert torch.equal(ours.nested_absmax, state.state2.absmax)
        assert torch.equal(ours.nested_offset, state.offset)
    expected = peer_dequantize(peer, codes, state).reshape(weight.shape)
    assert ours.dequantize().dtype == weight.dtype
    assert torch.equal(ours.dequantize(), expected)


@pytest.mark.parametrize("code_book", CODE_BOOKS)
def test_the_maps_are_those_of_bitsandbytes(peer, code_book: str) -> None:
    assert torch.equal(code_values(code_book, CPU), peer.get_4bit_type(code_book, device="cpu"))
    assert torch.equal(dynamic_map(CPU), peer.create_dynamic_map())
    assert code_book in quantizations()


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("code_book", CODE_BOOKS)
def test_random_weights_equal_bitsandbytes(
    peer, code_book: str, dtype, block_size: int, double: bool
) -> None:
    for shape in SHAPES:
        weight = torch.randn(shape).to(dtype)
        assert_equal_to_peer(peer, weight, code_book, block_size, double)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("code_book", CODE_BOOKS)
def test_edge_weights_equal_bitsandbytes(peer, code_book: str, double: bool) -> None:
    ascending = code_values(code_book, CPU).sort().values
    middles = torch.cat([(ascending[1:] + ascending[:-1]) / 2, torch.ones(1)])
    for weight in (
        torch.zeros(5, 64),
        -torch.zeros(5, 64),
        torch.zeros(5, 67),
        torch.full((3, 64), -2.5),
        ascending.repeat(8, 1),
        middles.repeat(8, 1),  # exactly between two codes
        torch.randn(9, 64) * torch.logspace(-30, 30, 9)[:, None],
        torch.randn(4, 64) * 1e-40,  # subnormal
    ):
        assert_equal_to_peer(peer, weight, code_book, 64, double)


@pytest.mark.parametrize("name", ["stories260K", "bitllama-1M"])
@pytest.mark.parametrize("code_book", CODE_BOOKS)
def test_real_weights_equal_bitsandbytes(
    peer, shared_data: Path, code_book: str, name: str
) -> None:
    with safe_open(shared_data / "models" / name / "model.safetensors", "pt") as file:
        for tensor in file.keys():  # noqa: SIM118
            for block_size in (64, 128):
                weight = file.get_tensor(tensor)
                assert_equal_to_peer(peer, weight, code_book, block_size, True)


@pytest.mark.parametrize("code_book", CODE_BOOKS)
def test_the_peer_reads_our_bytes(peer, code_book: str) -> None:
    weight = torch.randn(96, 128, dtype=torch.bfloat16)
    ours = four_bit.quantize(weight, code_book, 64, True)
    state = peer.QuantState(
        absmax=ours.absmax,
        shape=weight.shape,
        dtype=weight.dtype,
        blocksize=64,
        code=code_values(code_book, CPU),
        quant_type=code_book,
        offset=ours.nested_offset,
        state2=peer.QuantState(
            absmax=ours.nested_absmax, code=dynamic_map(CPU), blocksize=256, dtype=torch.float32
        ),
    )
    theirs = peer.dequantize_4bit(ours.codes.unsqueeze(1), state)
    assert torch.equal(theirs, ours.dequantize())


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("code_book", CODE_BOOKS)
def test_codes_and_values_against_float64(code_book: str, double: bool) -> None:
    values = code_values(code_book, CPU).double()
    for shape in SHAPES:
        weight = torch.randn(shape, dtype=torch.float64)
        packed = four_bit.quantize(weight, code_book, 32, double)
        scales = packed.scales().double().repeat_interleave(32)[: weight.numel()].view(shape)
        pairs = torch.stack([packed.codes >> 4, packed.codes & 15], 1).flatten()
        codes = pairs[: weight.numel()].long().view(shape)
        assert relative_error(packed.dequantize(), values[codes] * scales) < 1e-6
        if not double:
            # The nearest value, but for ties that float32 decides.
            nearest = (weight / scales).unsqueeze(-1).sub(values).abs().min(-1).values
            chosen = (weight / scales - values[codes]).abs()
            assert torch.all(chosen <= nearest + 1e-6)


def test_chunks_do_not_change_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(2 * 4096 + 131, 3)
    whole = lorakit.nf4.quantize(weight)
    dense = whole.dequantize()
    assert CHUNK_WEIGHTS["cpu"] % max(BLOCK_SIZES) == 0
    monkeypatch.setitem(CHUNK_WEIGHTS, "cpu", 4096)
    again = lorakit.nf4.quantize(weight)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), again.buffers(), strict=True))
    assert torch.equal(again.dequantize(), dense)


def test_errors_on_normal_weights_are_those_of_the_code_books() -> None:
    weight = torch.randn(256, 256, dtype=torch.float64)
    errors = {
        name: relative_error(four_bit.quantize(weight, name, 64, True).dequantize(), weight)
        for name in CODE_BOOKS
    }
    # 9 % for blocks of 64 normal weights with bitsandbytes' NF4 too; FP4 is a quarter worse.
    assert errors["nf4"] < 0.1 < errors["fp4"] < 0.13


def test_sizes_on_the_meta_device_are_the_real_ones() -> None:
    for shape in SHAPES:
        for block_size in BLOCK_SIZES:
            for double in (True, False):
                weight = torch.randn(shape)
                real = lorakit.nf4.quantize(weight, block_size, double).tensors()
                meta = lorakit.nf4.quantize(weight.to("meta"), block_size, double)
                assert {k: (v.shape, v.dtype) for k, v in real.items()} == {
                    k: (v.shape, v.dtype) for k, v in meta.tensors().items()
                }
                assert meta.dequantize().shape == weight.shape


@pytest.mark.parametrize(
    ("weight", "block_size"),
    [
        (torch.randn(4, 4), 48),
        (torch.randn(4, 4), 0),
        (torch.zeros(4, 4, dtype=torch.int8), 64),
        (torch.zeros(0, 4), 64),
    ],
)
def test_what_cannot_be_quantized_is_refused(weight: torch.Tensor, block_size: int) -> None:
    for code_book in CODE_BOOKS:
        with pytest.raises(InputError, match="possible"):
            four_bit.quantize(weight, code_book, block_size, True)
