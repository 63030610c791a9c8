"""Models of a real one's shape with random weights, made on the device from a config: nothing comes
from a disk, and no weight goes through host memory.

lorakit's side and the peers' draw the same values: weight by weight, from one generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel
from workload import CONFIGS

from lorakit.base.config import model_config
from lorakit.base.meta_model import empty_model
from lorakit.base.packing import packable, packable_linears, replace_layer
from lorakit.base.storages import storage

BLOCK_SIZE = 64
DEVIATION = 0.02  # of the weights, as models of this family are initialized

LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
)
TINY = LlamaConfig(**(CONFIGS["tiny"].to_dict() | {"tie_word_embeddings": False}))


def checked(config: PreTrainedConfig) -> PreTrainedConfig:
    """As a load would have it: our attention, no dropout."""
    return model_config(config.to_dict())


def ours(
    config: PreTrainedConfig, quantization: str, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """lorakit's frozen base: "none" or a 4-bit storage, packed weight by weight on the device."""
    model = empty_model(checked(config), dtype=dtype)
    draw = drawing(device, dtype)
    targets = packable(model) if quantization != "none" else {}
    for path, parameter in list(parameters(model)):
        weight = draw(parameter)
        if path.removesuffix(".weight") in targets:
            packed = storage(quantization).pack(
                weight, block_size=BLOCK_SIZE, double_quantization=True
            )
            replace_layer(model, path.removesuffix(".weight"), packed)
        else:
            put(model, path, weight)
    return finished(model, device)


def theirs(
    config: PreTrainedConfig, quantization: str, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """transformers' model with its own attention (SDPA); "nf4" as bitsandbytes holds it."""
    plain = checked(config)
    plain._attn_implementation = "sdpa"
    model = empty_model(plain, dtype=dtype)
    draw = drawing(device, dtype)
    targets = packable_linears(model) if quantization != "none" else []
    for path, parameter in list(parameters(model)):
        weight = draw(parameter)
        owner = path.removesuffix(".weight")
        if owner in targets:
            parent, _, leaf = owner.rpartition(".")
            setattr(model.get_submodule(parent), leaf, bitsandbytes_layer(weight))
        else:
            put(model, path, weight)
    if quantization != "none":
        cast(Any, model).is_loaded_in_4bit = True  # by which PEFT and TRL know it
    return finished(model, device)


def bitsandbytes_layer(weight: torch.Tensor) -> nn.Module:
    """`Linear4bit` over a weight (O, I), which is quantized where it lies."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    num_out, num_in = weight.shape
    with torch.device("meta"):
        layer = Linear4bit(
            num_in, num_out, bias=False, compute_dtype=weight.dtype, quant_type="nf4"
        )
    packed = Params4bit(
        weight,
        requires_grad=False,
        blocksize=BLOCK_SIZE,
        compress_statistics=True,
        quant_type="nf4",
        module=layer,
    )
    # bitsandbytes 0.50 annotates its `to` as that of a module; it is a parameter's.
    layer.weight = cast(nn.Parameter, packed).to(weight.device)
    return layer


def parameters(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """In an order that does not depend on how the model is stored."""
    return iter(sorted(model.named_parameters()))


def drawing(device: torch.device, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """Gives the values of one parameter after the other: norms of one, matrices at random."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(parameter: torch.Tensor) -> torch.Tensor:
        if parameter.dim() == 1:
            return torch.ones(parameter.shape, device=device, dtype=dtype)
        made = torch.empty(parameter.shape, device=device, dtype=dtype)
        return made.normal_(std=DEVIATION, generator=generator)

    return draw


def put(model: PreTrainedModel, path: str, weight: torch.Tensor) -> None:
    """In place of the parameter at `path`."""
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, nn.Parameter(weight, requires_grad=False))


def finished(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """With the rotary frequencies, which are no parameters.

    Raises:
        RuntimeError: something else is left without data.
    """
    backbone = model.model
    backbone.rotary_emb = type(backbone.rotary_emb)(config=model.config).to(device)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise RuntimeError(f"{name} was not made")
    return model.requires_grad_(False).eval()
