"""Dense copies of packed weights: the same bits, no unpacking, and gone afterwards."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorakit import kernels
from lorakit.base.packed import PackedWeight
from lorakit.base.storages import quantizations
from lorakit.engine.dense_copies import KeptDense, dense_copies, dense_copy_bytes
from lorakit.train import setup
from lorakit.train.choices import DENSE_SHARE, make_choices
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from tests import families
from tests.train import runs

STORAGES = sorted(set(quantizations()) - {"none"})
SETTINGS = LoopSettings(max_steps=3, batch_size=4, learning_rate=1e-2)
EXAMPLES = runs.ragged_examples(9)
LONGEST = int(EXAMPLES.lengths.max())
CPU = torch.device("cpu")
PLENTY = 1 << 34


@pytest.fixture(scope="module", params=["llama", "gpt2", "mixtral"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.folder(tmp_path_factory.mktemp("copies") / request.param, request.param)


def run(
    folder: Path, free_bytes: int, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[Any, dict[str, torch.Tensor], int]:
    """A run as if so much memory were free; how it went, and how often it unpacked a weight."""
    model = runs.adapted_model(folder, quantization="nf4")
    unpacked = 0
    plain = kernels.four_bit_dequantize

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal unpacked
        unpacked += 1
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(setup, "free_bytes", lambda device: free_bytes)
        patch.setattr(kernels, "four_bit_dequantize", counted)
        save_steps = 1 if "run_dir" in options else None
        settings = replace(SETTINGS, micro_batch_tokens=64, save_steps=save_steps)
        outcome = train(model, EXAMPLES, settings, **options)
    return outcome, runs.values(model), unpacked


@pytest.mark.parametrize("storage", STORAGES)
def test_the_very_bits_and_everything_back(folder: Path, storage: str) -> None:
    model = runs.adapted_model(folder, quantization=storage)
    names = [name for name, _ in model.named_buffers()]
    packed = [
        (m, m.stored)
        for m in model.modules()
        if isinstance(vars(m)["_modules"].get("stored"), PackedWeight)
    ]
    total = sum(stored.shape.numel() for _, stored in packed)
    assert packed and dense_copy_bytes(model, torch.float32) == 4 * total
    with dense_copies(model, torch.float32):
        assert [name for name, _ in model.named_buffers()] == names
        assert dense_copy_bytes(model, torch.float32) == 0
        for module, stored in packed:
            kept = module.stored
            assert isinstance(kept, KeptDense)
            assert kept.dequantize() is kept.dequantize(torch.float32, CPU)
            assert torch.equal(kept.dequantize(), stored.dequantize())
            half = kept.dequantize(torch.bfloat16)
            assert torch.equal(half, stored.dequantize(torch.bfloat16))
            assert torch.equal(kept.dequantize_part(1), stored.dequantize_part(1))
    assert all(module.stored is stored for module, stored in packed)


def test_a_run_computes_the_same_without_unpacking(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, parameters, often = run(folder, 0, monkeypatch)
    assert not expected.choices.dense_copies
    found, others, once = run(folder, PLENTY, monkeypatch)
    assert found.choices.dense_copies
    model = runs.adapted_model(folder, quantization="nf4")
    packed = [module for module in model.modules() if isinstance(module, PackedWeight)]
    assert once == len(packed) < often
    assert runs.logged(found.metrics) == runs.logged(expected.metrics)
    assert all(torch.equal(others[name], value) for name, value in parameters.items())


def test_a_resumed_run_keeps_what_its_start_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    expected, parameters, _ = run(folder, PLENTY, monkeypatch, run_dir=whole)
    for later in (2, 3):
        shutil.rmtree(whole / "checkpoints" / f"step-{later}")
    found, others, _ = run(folder, 0, monkeypatch, run_dir=whole, resume=True)
    assert found.choices == expected.choices and found.choices.dense_copies
    assert all(torch.equal(others[name], value) for name, value in parameters.items())


def test_only_where_nobody_would_notice(folder: Path) -> None:
    model = runs.adapted_model(folder, quantization="nf4")
    fits = int(dense_copy_bytes(model, torch.float32) / DENSE_SHARE) + 1
    for free_bytes, kept in ((fits, True), (fits - 2 * int(1 / DENSE_SHARE), False)):
        choices = make_choices(
            *(model, LONGEST, replace(SETTINGS, micro_batch_tokens=64), CPU),
            free_bytes=free_bytes,
        )
        assert choices.dense_copies == kept
        assert ("dense copies" in choices.describe()) == kept
    recomputing = replace(SETTINGS, gradient_checkpointing=True)
    assert not make_choices(model, LONGEST, recomputing, CPU, free_bytes=PLENTY).dense_copies
    dense = runs.adapted_model(folder)
    assert not make_choices(dense, LONGEST, SETTINGS, CPU, free_bytes=PLENTY).dense_copies
