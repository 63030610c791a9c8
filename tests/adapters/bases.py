"""Tiny bases the adapter and merge tests loop over, and what they do to adapters."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters import inits, kinds
from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.attached import Attached, attached
from lorakit.base.load import load_base
from lorakit.base.storages import quantizations
from lorakit.recipe import LoraConfig
from tests import tiny

# llama: the common case; qwen2: biases in q, k, v; gpt2: Conv1D and a tied head.
FAMILIES = ("llama", "qwen2", "gpt2")
STORAGES = sorted(quantizations())
KINDS = kinds.names()
# With a number where the name of an init has an N.
INITS = [name.replace("N", "4") if isinstance(name, str) else name for name in inits.names()]
STARTING_AT_BASE = [name for name in INITS if inits.init(name).STARTS_AT_BASE]

Load = Callable[..., PreTrainedModel]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{family: a tiny random model folder}"""
    root = tmp_path_factory.mktemp("bases")
    return {family: tiny.folder(root / family, family) for family in FAMILIES}


@pytest.fixture
def load(folders: dict[str, Path]) -> Load:
    """Loads a fresh base: `load(family, storage="none", dtype=torch.float32)`."""

    def load_fresh(
        family: str, storage: str = "none", dtype: torch.dtype = torch.float32
    ) -> PreTrainedModel:
        return load_base(folders[family], quantization=storage, dtype=dtype, device="cpu")[0]

    return load_fresh


def every_variant() -> list[tuple[str, str, str, bool]]:
    """Every (family, storage, kind, use_rslora)."""
    return list(itertools.product(FAMILIES, STORAGES, KINDS, (False, True)))


def variants_with_inits() -> list[tuple[str, str, bool | str]]:
    """Every (storage, kind, init) that starts at the base; loftq has nothing to do on a dense
    one."""
    return [
        (storage, kind, init)
        for storage, kind, init in itertools.product(STORAGES, KINDS, STARTING_AT_BASE)
        if not (init == "loftq" and storage == "none")
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
