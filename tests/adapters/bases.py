"""Tiny bases the adapter and merge tests loop over, and what they do to adapters."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters import inits, kinds
from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.attached import Attached, attached
from lorakit.base.load import load_base
from lorakit.base.quantization_config import CHECKPOINT
from lorakit.base.storages import quantizations
from lorakit.base.write_quantized import PackSettings, quantize_folder
from lorakit.recipe import LoraConfig
from tests import tiny

# llama: the common case; qwen2: biases in q, k, v; gpt2: Conv1D and a tied head.
FAMILIES = ("llama", "qwen2", "gpt2")
# Every storage, and a checkpoint that is packed on disk.
STORAGES = [*sorted(quantizations()), CHECKPOINT]
FAST_STORAGES = ("none", "nf4")
KINDS = kinds.names()
# With a number where the name of an init has an N.
INITS = [name.replace("N", "4") if isinstance(name, str) else name for name in inits.names()]
STARTING_AT_BASE = [name for name in INITS if inits.init(name).STARTS_AT_BASE]
# Those that take something out of the base, or start as a correction of it.
PART_OF_BASE = ("loftq", "olora", "pissa", "pissa_niter_4")

Load = Callable[..., PreTrainedModel]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{family: a tiny random model folder}"""
    root = tmp_path_factory.mktemp("bases")
    return {family: tiny.folder(root / family, family) for family in FAMILIES}


def folder_of(
    folders: dict[str, Path], family: str, storage: str, beside: Path | None = None
) -> Path:
    """The model folder to load with `storage`: for a checkpoint that is packed, one such, made
    once and kept in `beside` (None: beside the original).
    """
    if storage != CHECKPOINT:
        return folders[family]
    packed = (beside or folders[family].parent) / f"{family}-packed"
    if not packed.exists():
        quantize_folder(folders[family], packed, PackSettings("nf4"))
    return packed


@pytest.fixture
def load(folders: dict[str, Path]) -> Load:
    """Loads a fresh base: `load(family, storage="none", dtype=torch.float32)`."""

    def load_fresh(
        family: str, storage: str = "none", dtype: torch.dtype = torch.float32
    ) -> PreTrainedModel:
        folder = folder_of(folders, family, storage)
        return load_base(folder, quantization=storage, dtype=dtype, device="cpu")[0]

    return load_fresh


def every_variant() -> list[tuple[str, str, str, bool]]:
    """Every (family, storage, kind, use_rslora); scaling and storage have nothing in common, so
    rsLoRA is there on dense bases only.
    """
    variants = itertools.product(FAMILIES, STORAGES, KINDS, (False, True))
    return [variant for variant in variants if variant[1] == "none" or not variant[3]]


def variants_with_inits() -> list[tuple[str, str, bool | str]]:
    """Every (storage, kind, init) that starts at the base and is possible: loftq has nothing to
    correct in a dense one, and a packed checkpoint has lost the original weights.
    """
    return [
        (storage, kind, init)
        for storage, kind, init in itertools.product(STORAGES, KINDS, STARTING_AT_BASE)
        if not (init == "loftq" and storage == "none")
        and not (init in PART_OF_BASE and storage == CHECKPOINT)
    ]


def mostly_slow(variants: list[tuple[str, str, bool | str]]) -> list[Any]:
    """The same as test parameters, of which a part runs by default: the other packed storages
    differ in their numbers only, the randomized SVD in its factors.
    """
    return [
        pytest.param(
            *variant,
            id="-".join(map(str, variant)),
            marks=[]
            if variant[0] in FAST_STORAGES and variant[2] != "pissa_niter_4"
            else pytest.mark.slow,
        )
        for variant in variants
    ]


def attach_init(model: PreTrainedModel, init: bool | str, **config: object) -> Attached:
    """`attach_adapter` with an init, and calibration batches where it needs some."""
    needs = inits.init(init).NEEDS_CALIBRATION
    batches = [{"input_ids": token_ids(4, 16, seed)} for seed in range(3)] if needs else None
    adapter = LoraConfig(**({"r": 4, "init_lora_weights": init} | config))
    return attach_adapter(model, adapter, calibration=batches)


def token_ids(rows: int = 2, tokens: int = 11, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 300, (rows, tokens), generator=generator)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(token_ids()).logits


@torch.no_grad()
def perturb(model: PreTrainedModel, size: float = 0.05, seed: int = 1) -> None:
    """Move every trained parameter, so that no factor is zero and no magnitude is the start."""
    generator = torch.Generator().manual_seed(seed)
    adapter = attached(model)
    for parameter in adapter.parameters().values():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_((size * noise).to(parameter.dtype))
    adapter.parameters_changed()
