"""Put fast modules into a model, and take them out again: those of training or of decoding."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lorakit import kernels
from lorakit.base import attention
from lorakit.base.hooks import is_watched
from lorakit.engine.decoding import (
    DecodingAttention,
    DecodingGatedMLP,
    DecodingRMSNorm,
    joint_linear,
)
from lorakit.engine.modules import FusedAttention, FusedGatedMLP, FusedRMSNorm, Stand
from lorakit.engine.same_code import same_forward

# {attention class: what modules with its code pass to the attention function beside the usual}. A
# module computes what one of them at most does, so the order is that of how many families share it.
ATTENTIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "llama.LlamaAttention": lambda module: {},
    "qwen3.Qwen3Attention": lambda module: {"sliding_window": module.sliding_window},
    "qwen2.Qwen2Attention": lambda module: {"sliding_window": module.sliding_window},
    "mistral.MistralAttention": lambda module: {
        "sliding_window": getattr(module.config, "sliding_window", None)
    },
}
# What a module with the code of one of these has below it; others need no look at their code.
OF_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
OF_MLP = frozenset({"gate_proj", "up_proj", "down_proj"})


@dataclass(frozen=True)
class _Makers:
    """What makes the fast form of a module with a known code; they may give None: there is none."""

    rms_norm: Callable[[nn.Module], Stand | None]
    gated_mlp: Callable[[nn.Module], Stand | None]
    attention: Callable[[nn.Module, dict[str, Any]], Stand | None]


@contextmanager
def fused_modules(model: nn.Module) -> Iterator[int]:
    """Inside, the layers of `model` that have a fast form take it; gives how many there are.

    Parameters, their names and what the model computes stay the same.
    """
    with _replaced(model, _Makers(FusedRMSNorm, FusedGatedMLP, FusedAttention)) as count:
        yield count


@contextmanager
def decoding_modules(model: nn.Module) -> Iterator[int]:
    """Likewise for passes that generate, without gradients: layers whose weights are dense, which
    must not change inside."""
    if kernels.is_reference_forced() or kernels.autocasts(next(model.parameters())):
        yield 0
        return
    with _replaced(model, _Makers(_decoding_norm, _decoding_mlp, _decoding_attention)) as count:
        yield count


def _decoding_norm(module: nn.Module) -> Stand | None:
    return DecodingRMSNorm(module) if module.weight.dtype == torch.float32 else None


def _decoding_mlp(module: nn.Module) -> Stand | None:
    joint = joint_linear(module._modules["gate_proj"], module._modules["up_proj"])
    return None if joint is None else DecodingGatedMLP(module, joint)


def _decoding_attention(module: Any, options: dict[str, Any]) -> Stand | None:
    joint = joint_linear(*(module._modules[f"{name}_proj"] for name in ("q", "k", "v")))
    if joint is None or module.config._attn_implementation != attention.NAME:
        return None
    return DecodingAttention(module, joint, options)


@contextmanager
def _replaced(model: nn.Module, makers: _Makers) -> Iterator[int]:
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            stand = _stand(child, makers)
            if stand is not None:
                setattr(parent, name, stand)
                replaced.append((parent, name, child))
    try:
        yield len(replaced)
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)


def _stand(module: Any, makers: _Makers) -> Stand | None:
    """What takes the place of a module; None: nothing does."""
    if is_watched(module):
        return None
    cls, below = type(module), module._modules.keys()
    if "variance_epsilon" in vars(module) and same_forward(cls, _known("llama.LlamaRMSNorm")):
        return makers.rms_norm(module)
    if below >= OF_MLP and same_forward(cls, _known("llama.LlamaMLP")):
        if not isinstance(module.act_fn, nn.SiLU | SiLUActivation):
            return None
        return makers.gated_mlp(module)
    for name, options in ATTENTIONS.items() if below >= OF_ATTENTION else ():
        # Eager attention is a function of each family's own file, not of the registry.
        if same_forward(cls, _known(name)) and (
            module.config._attn_implementation in ALL_ATTENTION_FUNCTIONS
        ):
            return makers.attention(module, options(module))
    return None


@cache
def _known(name: str) -> type[nn.Module]:
    """A class of transformers, such as `llama.LlamaMLP`; its file is imported when it is first
    compared with, for that takes up to a tenth of a second."""
    family, _, leaf = name.partition(".")
    found: type[nn.Module] = getattr(
        importlib.import_module(f"transformers.models.{family}.modeling_{family}"), leaf
    )
    return found
