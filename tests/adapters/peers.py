"""PEFT as the peer of the adapter tests; its warnings are errors, but for those not about us."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorakit.adapters.attached import Attached
from lorakit.adapters.save import PREFIX
from lorakit.base.bitsandbytes_format import stored_tensors
from lorakit.base.four_bit import FourBitWeight
from lorakit.base.frozen_linear import FrozenLinear
from tests.adapters.bases import token_ids
from tests.base.bitsandbytes_peer import by_generic_code
from tests.tolerances import GRADIENT_FLOAT32


@contextmanager
def peft_warnings() -> Iterator[None]:
    """Only what PEFT says of transformers, or of a base it cannot look up, is let through."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*deprecated")
        warnings.filterwarnings("ignore", message="Could not find a config file in")
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out is set to (True|False)")
        warnings.filterwarnings("ignore", message="You have passed exclude_modules=")
        warnings.filterwarnings("ignore", message=".*_pattern keys did not match any")
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        warnings.filterwarnings("ignore", message=r".*invalid shape: \S*lora_B\.bias")
        warnings.filterwarnings("ignore", message="`lora_bias=True` was passed but the targeted")
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
        yield


def load_in_peft(model: PreTrainedModel, folder: Path) -> PeftModel:
    """PEFT's model of a plain base and an adapter folder, in eval mode."""
    with peft_warnings():
        return PeftModel.from_pretrained(model, folder).eval()


def make_in_peft(model: PreTrainedModel, config: LoraConfig, *, size: float = 0.05) -> PeftModel:
    """A fresh adapter of PEFT's on a plain base, every trained parameter moved from its start."""
    with peft_warnings(), torch.random.fork_rng():
        torch.manual_seed(3)
        made = get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_((size * noise).to(parameter.dtype))
    return made


def save_from_peft(model: PeftModel, folder: Path) -> None:
    """`save_pretrained` of PEFT's."""
    with peft_warnings():
        model.save_pretrained(folder)


def same_weights(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The library's own model over the very weights of `model`, which `load_base` made of `folder`.

    Packed NF4 weights become bitsandbytes' layers over the very bytes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, module in model.named_modules():
        if isinstance(module, FrozenLinear) and isinstance(module.stored, FourBitWeight):
            parent, _, leaf = name.rpartition(".")
            setattr(plain.get_submodule(parent), leaf, _in_bitsandbytes(name, module))
    return plain


def _in_bitsandbytes(name: str, module: FrozenLinear) -> nn.Module:
    import bitsandbytes as bnb

    assert isinstance(module.stored, FourBitWeight)
    tensors = stored_tensors("weight", module.stored)
    layer = bnb.nn.Linear4bit(
        module.in_features,
        module.out_features,
        bias=module.bias is not None,
        compute_dtype=torch.float32,
        quant_type="nf4",
    )
    layer.weight = bnb.nn.Params4bit.from_prequantized(
        data=tensors.pop("weight"),
        quantized_stats={key.removeprefix("weight."): value for key, value in tensors.items()},
        requires_grad=False,
        device="cpu",
        module=layer,
    )
    if module.bias is not None:
        layer.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=False)
    by_generic_code(layer)
    return layer


def assert_gradients_equal(ours: PreTrainedModel, adapter: Attached, theirs: PeftModel) -> None:
    """That every trained tensor has the gradient PEFT gives it, and no other has one."""
    ids = token_ids()
    for model in (ours, theirs):
        model(input_ids=ids, labels=ids).loss.backward()
    by_name = {}
    for name, parameter in theirs.named_parameters():
        # With bias "all" PEFT lets the frozen copy of a module train, which it never calls.
        if parameter.requires_grad and ".original_module." not in name:
            by_name[_file_name(name)] = parameter.grad
    mine = {
        f"{PREFIX}{name}.{suffix}": module.get_parameter(below).grad
        for name, module in adapter.modules.items()
        for suffix, below in module.peft_names().items()
    }
    mine |= {f"{PREFIX}{name}": bias.grad for name, (bias, _) in adapter.biases.items()}
    assert mine.keys() == by_name.keys()
    scale = max(gradient.norm().item() for gradient in by_name.values() if gradient is not None)
    for name, gradient in by_name.items():
        if gradient is None:
            assert mine[name] is None, name
            continue
        # A gradient much smaller than the others carries their rounding.
        size = max(gradient.norm().item(), 0.1 * scale)
        assert (mine[name] - gradient).norm().item() <= GRADIENT_FLOAT32 * size, name


def _file_name(parameter: str) -> str:
    """PEFT's name of a parameter in its file."""
    name = parameter.replace(".modules_to_save.default", "").replace(".default", "")
    return name.removesuffix(".weight") if "lora_magnitude_vector" in name else name
