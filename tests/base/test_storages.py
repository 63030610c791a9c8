"""What every storage of base/storages promises, whatever its name."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from lorakit.base.frozen_linear import MovableWeight
from lorakit.base.storages import quantizations, storage
from lorakit.errors import ModelError

STORAGES = sorted(quantizations())
PACKED = [name for name in STORAGES if name != "none"]
SHAPES = [(1, 1), (7, 5), (64, 33), (3, 5, 7)]  # linear layers, and experts (E, O, I)


def packed(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> MovableWeight:
    weight = torch.randn(shape).to(dtype)
    return storage(name).pack(weight, block_size=32, double_quantization=True)


def described(stored: MovableWeight) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {part: (tensor.shape, tensor.dtype) for part, tensor in stored.tensors().items()}


@pytest.mark.parametrize("name", STORAGES)
def test_shape_dtype_and_devices(name: str) -> None:
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            stored = packed(name, shape, dtype)
            assert tuple(stored.shape) == shape and stored.dtype == dtype
            assert stored.dequantize().shape == shape and stored.dequantize().dtype == dtype
            wide = stored.dequantize(torch.float64)
            assert wide.dtype == torch.float64
            if dtype == torch.bfloat16:  # rounded once
                assert torch.equal(stored.dequantize(), wide.to(dtype))
            meta = stored.dequantize(device=torch.device("meta"))
            assert meta.is_meta and meta.shape == shape


@pytest.mark.parametrize("double_quantization", [True, False])
@pytest.mark.parametrize("name", STORAGES)
def test_a_part_is_that_part_of_the_whole(name: str, double_quantization: bool) -> None:
    # Parts that share a block, that share a group of block scales, and that are whole blocks.
    for shape in [(3, 5, 7), (3, 67, 129), (4, 32, 64)]:
        stored = storage(name).pack(
            torch.randn(shape), block_size=32, double_quantization=double_quantization
        )
        whole = stored.dequantize()
        for index in range(shape[0]):
            assert torch.equal(stored.dequantize_part(index), whole[index])
        half = stored.dequantize_part(1, torch.bfloat16)
        assert torch.equal(half, stored.dequantize(torch.bfloat16)[1])
        assert stored.dequantize_part(1, device=torch.device("meta")).shape == shape[1:]


@pytest.mark.parametrize("name", STORAGES)
def test_the_same_over_copies_of_its_tensors(name: str) -> None:
    for shape in SHAPES:
        stored = packed(name, shape)
        tensors = {part: tensor.clone() for part, tensor in stored.tensors().items()}
        for other in (stored.with_tensors(tensors), copy.deepcopy(stored)):
            assert torch.equal(other.dequantize(), stored.dequantize())
            assert repr(other) == repr(stored)


@pytest.mark.parametrize("name", STORAGES)
def test_another_weight_is_packed_in_the_same_way(name: str) -> None:
    for double in (True, False):
        pack = partial(storage(name).pack, block_size=32, double_quantization=double)
        like = pack(torch.randn(7, 9)).pack_like(other := torch.randn(7, 9))
        assert torch.equal(like.dequantize(), pack(other).dequantize())
        assert described(like) == described(pack(other))


@pytest.mark.parametrize("name", PACKED)
def test_sizes_on_the_meta_device_are_the_real_ones(name: str) -> None:
    for shape in SHAPES:
        real = packed(name, shape)
        meta = storage(name).pack(
            torch.empty(shape, device="meta"), block_size=32, double_quantization=True
        )
        described = [
            {part: (t.shape, t.dtype) for part, t in each.tensors().items()}
            for each in (real, meta)
        ]
        assert described[0] == described[1]
        assert meta.shape == real.shape and meta.dequantize().is_meta


@pytest.mark.parametrize("name", PACKED)
def test_casting_a_model_leaves_packed_tensors_alone(name: str) -> None:
    stored = packed(name, (33, 65))
    before = {part: tensor.clone() for part, tensor in stored.tensors().items()}
    for cast in (lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to(torch.float64)):
        cast(stored)
        for part, tensor in stored.tensors().items():
            assert tensor.dtype == before[part].dtype and torch.equal(tensor, before[part])


@pytest.mark.parametrize("name", PACKED)
def test_packing_what_was_unpacked_changes_little(name: str) -> None:
    """Dequantized weights lie on the code points: a second quantization finds them again."""
    once = packed(name, (48, 64)).dequantize()
    again = storage(name).pack(once, block_size=32, double_quantization=False).dequantize()
    assert torch.allclose(once, again, rtol=1e-3, atol=1e-6)


def test_an_unknown_storage_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="possible: fp4, int8, nf4, none"):
        storage("int3")
