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
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.data.examples import ExampleSet
from lorakit.train.settings import LoopSettings

SAMPLED_VALUES = 4096  # about so many of every frozen tensor

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
    """Hex SHA-256 over name, shape, dtype and values spread over every frozen tensor.

    Tells two bases apart without reading them whole. The same base has the same hash wherever its
    weights lie.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_frozen_tensors(model), key=lambda item: item[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.numel():
            # An odd stride: one that divides the row length would read a single column.
            stride = tensor.numel() // SAMPLED_VALUES | 1
            digest.update(_bytes(tensor.detach().flatten()[::stride]))
    return digest.hexdigest()


def _frozen_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    # Whether a stored tensor is a parameter as well depends on where it lies.
    stored: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, FrozenLinear | FrozenExperts):
            tensors = module.stored.tensors()
            stored.update(map(id, tensors.values()))
            is_conv1d = isinstance(module, FrozenLinear) and module.fan_in_fan_out
            if is_conv1d and list(tensors) == ["weight"]:
                # A dense Conv1D lies transposed in one place and not in another.
                tensors = {"weight": module.weight}
            for part, tensor in tensors.items():
                yield f"{name}.{part}", tensor
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and id(parameter) not in stored:
            yield name, parameter


def _bytes(values: torch.Tensor) -> bytes:
    return values.contiguous().cpu().view(torch.uint8).numpy().tobytes()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
