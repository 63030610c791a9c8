"""What makes a run this run: a checkpoint of another one is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.fingerprint import stored_tensors, update_digest
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.data.examples import ExampleSet
from lorakit.data.sources import Row
from lorakit.train.settings import LoopSettings

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
    method: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """JSON values that a resumed run must share with the run it goes on from.

    The data's fingerprint covers rows, tokenizer, template and rules; the base is known by its
    config and a few values of each frozen tensor, not by where it lies.

    Args:
        method: what a method other than SFT is run with.
    """
    own = {} if method is None else {"method": dict(method)}
    return own | {
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
    originals = _original_hashes(model)
    for name, tensor in sorted(_frozen_tensors(model, originals), key=lambda item: item[0]):
        update_digest(digest, name, tensor)
    for name, original in sorted(originals.items()):
        digest.update(f"{name} {original}".encode())
    return digest.hexdigest()


def columns_hash(rows: Iterable[Row]) -> str:
    """Hex SHA-256 over all columns of the rows, in their order, as a reward function is given
    them; where they stand and the order of columns do not count."""
    digest = hashlib.sha256()
    for row in rows:
        columns = dict(sorted(row.values.items()))
        digest.update(json.dumps(columns, default=str).encode() + b"\n")
    return digest.hexdigest()


def _original_hashes(model: PreTrainedModel) -> dict[str, str]:
    """{layer whose init took something out of its weight: the hash from before}.

    What is left there depends on the last bits of a decomposition, which a resumed run takes from
    its checkpoint.
    """
    return {
        f"{name}.base_layer": module.kept_start.original_sha256
        for name, module in model.named_modules()
        if isinstance(module, AdaptedLinear)
        and module.kept_start is not None
        and module.kept_start.original_sha256 is not None
    }


def _frozen_tensors(
    model: PreTrainedModel, without: Container[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    # Whether a stored tensor is a parameter as well depends on where it lies.
    stored: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, FrozenLinear | FrozenExperts):
            stored.update(map(id, module.stored.tensors().values()))
            if name not in without:
                yield from stored_tensors(name, module)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and id(parameter) not in stored:
            yield name, parameter


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
