"""Put the fast modules into a model, and take them out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from lorakit.engine.modules import FusedAttention, FusedGatedMLP, FusedRMSNorm, Stand, is_watched
from lorakit.engine.same_code import same_forward

# {attention class: what modules with its code pass to the attention function beside the usual}.
ATTENTIONS: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    LlamaAttention: lambda module: {},
    MistralAttention: lambda module: {
        "sliding_window": getattr(module.config, "sliding_window", None)
    },
    Qwen2Attention: lambda module: {"sliding_window": module.sliding_window},
    Qwen3Attention: lambda module: {"sliding_window": module.sliding_window},
}


@contextmanager
def fused_modules(model: nn.Module) -> Iterator[int]:
    """Inside, the layers of `model` that have a fast form take it; gives how many there are.

    Parameters, their names and what the model computes stay the same.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            stand = _stand(child)
            if stand is not None:
                setattr(parent, name, stand)
                replaced.append((parent, name, child))
    try:
        yield len(replaced)
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)


def _stand(module: Any) -> Stand | None:
    """What takes the place of a module; None: nothing does."""
    if is_watched(module):
        return None
    cls = type(module)
    if same_forward(cls, LlamaRMSNorm) and hasattr(module, "variance_epsilon"):
        return FusedRMSNorm(module)
    if same_forward(cls, LlamaMLP) and isinstance(module.act_fn, nn.SiLU | SiLUActivation):
        return FusedGatedMLP(module)
    for known, options in ATTENTIONS.items():
        # Eager attention is a function of each family's own file, not of the registry.
        if same_forward(cls, known) and (
            module.config._attn_implementation in ALL_ATTENTION_FUNCTIONS
        ):
            return FusedAttention(module, options(module))
    return None
