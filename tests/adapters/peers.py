"""PEFT as the peer of the adapter tests; its warnings are errors, but for those not about us."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel


@contextmanager
def peft_warnings() -> Iterator[None]:
    """Only what PEFT says of transformers, or of a base it cannot look up, is let through."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*deprecated")
        warnings.filterwarnings("ignore", message="Could not find a config file in")
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out is set to (True|False)")
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
    with peft_warnings():
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
