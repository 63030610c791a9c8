"""NF4: bytes and values equal to bitsandbytes' CPU backend, on random and real odd-sized tensors.

There are no ties to list: our writer takes the same detours (see `kernels/reference/nf4.py`). The
one exception is in reading: bitsandbytes' AVX-512 kernel takes a wrong scale where a block crosses
the end of a row (blocks do not divide the row); there its generic code is the peer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lorakit.base.storages import nf4
from lorakit.errors import InputError
from lorakit.kernels.reference.dynamic8 import dynamic_map
from lorakit.kernels.reference.nf4 import CHUNK_WEIGHTS, CODE_BOOK
from tests.tolerances import relative_error

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 1), (1, 7), (37, 53), (64, 64), (128, 130), (300, 1), (513, 257), (3, 5, 7)]


@pytest.fixture(scope="module")
def peer():
    """bitsandbytes' functions; imported here because the package never does."""
    pytest.importorskip("bitsandbytes")
    import bitsandbytes.functional as functional

    return functional


def peer_dequantize(peer, codes: torch.Tensor, state) -> torch.Tensor:
    if state.shape[-1] % state.blocksize == 0:
        return peer.dequantize_4bit(codes, state)
    from bitsandbytes.backends.default import ops

    absmax = state.absmax
    if state.nested:
        absmax = peer.dequantize_blockwise(state.absmax, state.state2) + state.offset
    with torch.compiler.set_stance("force_eager"):
        return ops._dequantize_4bit_compute(
            codes.reshape(-1), absmax, state.code, state.blocksize, state.shape, state.dtype
        )


def assert_equal_to_peer(peer, weight: torch.Tensor, block_size: int, double: bool) -> None:
    codes, state = peer.quantize_4bit(
        weight, blocksize=block_size, compress_statistics=double, quant_type="nf4"
    )
    ours = nf4.quantize(weight, block_size, double)
    assert torch.equal(ours.codes, codes.flatten())
    assert torch.equal(ours.absmax, state.absmax)
    assert ours.absmax.dtype == state.absmax.dtype
    if double:
        assert torch.equal(ours.nested_absmax, state.state2.absmax)
        assert torch.equal(ours.nested_offset, state.offset)
    expected = peer_dequantize(peer, codes, state).reshape(weight.shape)
    assert ours.dequantize().dtype == weight.dtype
    assert torch.equal(ours.dequantize(), expected)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("block_size", nf4.BLOCK_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_weights_equal_bitsandbytes(peer, dtype, block_size: int, double: bool) -> None:
    for shape in SHAPES:
        assert_equal_to_peer(peer, torch.randn(shape).to(dtype), block_size, double)


@pytest.mark.parametrize("double", [True, False])
def test_edge_weights_equal_bitsandbytes(peer, double: bool) -> None:
    middles = torch.tensor(CODE_BOOK).add(torch.tensor([*CODE_BOOK[1:], 1.0])).div(2)
    for weight in (
        torch.zeros(5, 64),
        torch.zeros(5, 67),
        torch.full((3, 64), -2.5),
        torch.tensor([CODE_BOOK] * 8),
        torch.stack([middles] * 8),  # exactly between two codes
        torch.randn(9, 64) * torch.logspace(-30, 30, 9)[:, None],
        torch.randn(4, 64) * 1e-40,  # subnormal
    ):
        assert_equal_to_peer(peer, weight, 64, double)


@pytest.mark.parametrize("name", ["stories260K", "bitllama-1M"])
def test_real_weights_equal_bitsandbytes(peer, shared_data: Path, name: str) -> None:
    with safe_open(shared_data / "models" / name / "model.safetensors", "pt") as file:
        for tensor in file.keys():  # noqa: SIM118
            for block_size in (64, 128):
                assert_equal_to_peer(peer, file.get_tensor(tensor), block_size, True)


def test_the_peer_reads_our_bytes(peer) -> None:
    weight = torch.randn(96, 128, dtype=torch.bfloat16)
    ours = nf4.quantize(weight)
    state = peer.QuantState(
        absmax=ours.absmax,
        shape=weight.shape,
        dtype=weight.dtype,
        blocksize=64,
        code=torch.tensor(CODE_BOOK),
        quant_type="nf4",
        offset=ours.nested_offset,
        state2=peer.QuantState(
            absmax=ours.nested_absmax,
            code=dynamic_map(torch.device("cpu")),
            blocksize=256,
            dtype=torch.float32,
        ),
    )
    theirs = peer.dequantize_4bit(ours.codes.unsqueeze(1), state)
    assert torch.equal(theirs, ours.dequantize())


def test_chunks_do_not_change_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(2 * 4096 + 131, 3)
    whole = nf4.quantize(weight)
    dense = whole.dequantize()
    assert CHUNK_WEIGHTS["cpu"] % max(nf4.BLOCK_SIZES) == 0
    monkeypatch.setitem(CHUNK_WEIGHTS, "cpu", 4096)
    again = nf4.quantize(weight)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), again.buffers(), strict=True))
    assert torch.equal(again.dequantize(), dense)


def test_error_is_that_of_nf4_on_normal_weights() -> None:
    weight = torch.randn(256, 256, dtype=torch.float64)
    # 9 % for blocks of 64 normal weights, with bitsandbytes too.
    assert relative_error(nf4.quantize(weight).dequantize(), weight) < 0.1


def test_casting_a_model_leaves_packed_tensors_alone() -> None:
    packed = nf4.quantize(torch.randn(33, 65))
    before = [tensor.clone() for tensor in packed.buffers()]
    for cast in (lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to(torch.float64)):
        cast(packed)
        after = list(packed.buffers())
        assert [t.dtype for t in after] == [t.dtype for t in before]
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_bytes_on_the_meta_device_are_the_real_ones() -> None:
    for shape in SHAPES:
        for block_size in nf4.BLOCK_SIZES:
            for double in (True, False):
                weight = torch.randn(shape)
                real = nf4.quantize(weight, block_size, double).tensors()
                meta = nf4.quantize(weight.to("meta"), block_size, double)
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
    with pytest.raises(InputError, match="possible"):
        nf4.quantize(weight, block_size)
