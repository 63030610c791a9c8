"""What makes a run this run: a checkpoint of another one is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.data.examples import ExampleSet
from lorakit.train.settings import LoopSettings

SAMPLED_VALUES = 8  # from each end of every frozen tensor

# They say where a model came from or what wrote its config, not what it is.
_VOLATILE = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}


def run_identity(
    model: PreTrainedModel,
    adapter: Attached,
    examples: ExampleSet,
    settings: LoopSettings,
    *,
    repeats: np.ndarray | None,
    validation: ExampleSet | None,
    world_size: int,
) -> dict[str, Any]:
    """JSON values that a resumed run must share with the run it goes on from.

    The data's fingerprint covers rows, tokenizer, template and rules; the base is known by its
    config and a few values of each frozen tensor, not by where it lies.
    """
    return {
        "base": {"config": config_hash(model), "weights": frozen_weights_hash(model)},
        "adapter": adapter.config.model_dump(mode="json", exclude={"path"}),
        "data": {
            "train": examples.fingerprint,
            "repeats": None if repeats is None else _sha256(np.asarray(repeats).tobytes()),
            "validation": None if validation is None else validation.fingerprint,
        },
        "train": settings.identity() | {"world_size": world_size},
        "versions": {name: version(name) for name in ("lorakit", "torch", "transformers")},
    }


def config_hash(model: PreTrainedModel) -> str:
    """Hex SHA-256 of the model's config, without what says where it came from."""
    values = {k: v for k, v in model.config.to_dict().items() if k not in _VOLATILE}
    return _sha256(json.dumps(values, sort_keys=True, default=str).encode())


def frozen_weights_hash(model: PreTrainedModel) -> str:
    """Hex SHA-256 over name, shape, dtype and the first and last values of every frozen tensor.

    Tells two bases apart without reading them whole.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_frozen_tensors(model), key=lambda item: item[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.numel():
            lines = tensor.detach().reshape(1) if tensor.dim() == 0 else tensor.detach()
            inner = lines.dim() - 1
            digest.update(_bytes(lines[(0,) * inner][:SAMPLED_VALUES]))
            digest.update(_bytes(lines[(-1,) * inner][-SAMPLED_VALUES:]))
    return digest.hexdigest()


def _frozen_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            yield name, parameter
    for name, module in model.named_modules():
        if isinstance(module, FrozenLinear):
            for part, tensor in module.stored.tensors().items():
                yield f"{name}.{part}", tensor


def _bytes(values: torch.Tensor) -> bytes:
    return values.contiguous().cpu().view(torch.uint8).numpy().tobytes()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
