"""Which embeddings can be adapted, and by what their rows are multiplied."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import nn


class _Scaled(Protocol):
    embed_scale: torch.Tensor | float


def is_embedding(module: nn.Module) -> bool:
    """Whether `module` is an embedding, adaptable or not."""
    return isinstance(module, nn.Embedding)


def why_unfit(module: nn.Module) -> str | None:
    """Why an embedding cannot be adapted by rows; None when it can."""
    assert isinstance(module, nn.Embedding)
    if type(module) is not nn.Embedding and not _is_scaled(module):
        return f"a {type(module).__name__}, which computes more than its rows"
    if module.max_norm is not None:
        return "an Embedding with max_norm, which rewrites its rows in the forward pass"
    if module.scale_grad_by_freq or module.sparse:
        return "an Embedding with scale_grad_by_freq or sparse gradients"
    return None


def scale_of(module: nn.Embedding) -> torch.Tensor | None:
    """What the rows are multiplied by (Gemma's root of the hidden size), in the table's dtype."""
    if not _is_scaled(module):
        return None
    scale = cast(_Scaled, module).embed_scale
    return torch.as_tensor(scale, device=module.weight.device).to(module.weight.dtype)


def _is_scaled(module: nn.Embedding) -> bool:
    # transformers copies this class into each family: `super().forward(ids) * self.embed_scale`.
    # tests/adapters/test_embeddings.py holds every class of this name to that.
    return type(module).__name__.endswith("ScaledWordEmbedding")
