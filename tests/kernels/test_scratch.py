"""Large dense weights in one place: the same bits, and never two of them at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lorakit import kernels
from lorakit.base.storages import quantizations
from lorakit.kernels import Projection, RowScale, scratch

ROWS, IN, OUT, RANK = 40, 24, 33, 3


@pytest.fixture
def every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "SMALLEST_BYTES", 0)


def weight(storage: str):
    return quantizations()[storage].pack(
        torch.randn(OUT, IN), block_size=64, double_quantization=True
    )


def computed(layers: list[Projection], x: torch.Tensor, grads: list[torch.Tensor]):
    leaves = [t for layer in layers for t in layer.tensors() if t is not None]
    outputs = kernels.projections(x, layers)
    return *outputs, *torch.autograd.grad(outputs, [x, *leaves], grads)


@pytest.mark.parametrize("storage", quantizations())
@pytest.mark.parametrize("rows", [ROWS, 5])  # DoRA scales weights, or outputs
def test_projections_have_the_same_bits(
    storage: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).requires_grad_()

    scale = RowScale(torch.rand(OUT) + 0.5, torch.rand(OUT) + 0.5)
    layers = [
        Projection(weight(storage), None, leaf(RANK, IN), leaf(OUT, RANK), 0.7, **dora)
        for dora in ({}, {"magnitude": leaf(OUT), "row_scale": lambda dense: scale}, {})
    ]
    x = torch.randn(rows, IN, requires_grad=True)
    grads = [torch.randn(rows, OUT) for _ in layers]
    stored = [{k: t.clone() for k, t in layer.weight.tensors().items()} for layer in layers]
    expected = computed(layers, x, grads)
    monkeypatch.setattr(scratch, "SMALLEST_BYTES", 0)
    for ours, plain in zip(computed(layers, x, grads), expected, strict=True):
        assert torch.equal(ours, plain)
    for layer, before in zip(layers, stored, strict=True):
        assert all(torch.equal(t, before[k]) for k, t in layer.weight.tensors().items())


@pytest.mark.usefixtures("every_size")
def test_one_place_inside_and_new_ones_outside() -> None:
    packed = weight("nf4")
    first, second = packed.dequantize(), packed.dequantize()
    assert first.data_ptr() != second.data_ptr()
    with scratch.short_lived():
        inside = [packed.dequantize().data_ptr() for _ in range(2)]
    assert len(set(inside)) == 1
    assert scratch.is_scratch(packed.dequantize()) is False
    assert torch.equal(first, second)


@pytest.mark.usefixtures("every_size")
def test_each_thread_has_its_own() -> None:
    packed = weight("nf4")

    def place(_: int) -> int:
        with scratch.short_lived():
            return packed.dequantize().data_ptr()

    with ThreadPoolExecutor(1) as other:
        theirs = other.submit(place, 0).result()
        assert theirs != place(0)


def test_small_ones_are_new() -> None:
    with scratch.short_lived():
        pair = [scratch.empty(torch.Size([4]), torch.float32, torch.device("cpu")) for _ in "ab"]
    assert pair[0].data_ptr() != pair[1].data_ptr()
