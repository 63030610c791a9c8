"""Which parameters decay, and which learn at another rate.

LoRA+ (Hayou, Ghosh and Yu, arXiv 2402.12354) trains B at `loraplus_lr_ratio` times the learning
rate of A. Groups are those of PEFT's `create_loraplus_optimizer`: every vector (a bias, a norm,
DoRA's magnitude) goes with B, and the factors of adapted embeddings, A and B, learn at
`loraplus_lr_embedding`. Which of them decay is another matter, and the same without LoRA+.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lorakit.errors import InputError

# transformers' Trainer (get_decay_parameter_names, 5.x) leaves these out of weight decay, and the
# parameters of nn.LayerNorm. A, B and DoRA's magnitudes do decay, as under PEFT + Trainer.
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
_FACTORS = (".lora_A", ".lora_B")
LORAPLUS_LR_EMBEDDING = 1e-6  # PEFT's default


@dataclass(frozen=True)
class Group:
    """What parameters that are updated alike have in common.

    Attributes:
        decays: whether weight decay applies.
        lr_factor: their learning rate is this times the step's.
        whole_floats: their moments are never kept in fewer bits.
    """

    decays: bool = False
    lr_factor: float = 1.0
    whole_floats: bool = False


def parameter_groups(
    model: nn.Module,
    parameters: Mapping[str, torch.Tensor],
    *,
    learning_rate: float,
    loraplus_lr_ratio: float | None = None,
    loraplus_lr_embedding: float | None = None,
) -> dict[str, Group]:
    """The group of every trained parameter.

    Args:
        model: that the parameters are part of.
        parameters: {name in the model: trained parameter}.
        learning_rate: the peak, which the schedule multiplies.
        loraplus_lr_ratio: learning rate of B over that of A; None: all learn alike.
        loraplus_lr_embedding: peak learning rate of adapted embeddings; None: 1e-6 with a ratio.

    Raises:
        InputError: a LoRA+ option that no parameter answers to.
    """
    decayed = decayed_names(model)
    # transformers' Trainer keeps their moments in 32 bits beside bitsandbytes' 8-bit optimizers:
    # the rows of rare tokens get gradients seldom, and ones of another size.
    embeddings = set(_embedding_parameters(model))
    factors = dict.fromkeys(parameters, 1.0)
    if loraplus_lr_ratio is not None:
        factors = _loraplus_factors(
            parameters,
            of_embeddings={name for name in embeddings if name.endswith(_FACTORS)},
            ratio=loraplus_lr_ratio,
            embedding=loraplus_lr_embedding,
            learning_rate=learning_rate,
        )
    return {name: Group(name in decayed, factors[name], name in embeddings) for name in parameters}


def decayed_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters weight decay applies to: all but biases and norms, as in Trainer."""
    in_layer_norms = {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    return frozenset(
        name
        for name, _ in model.named_parameters()
        if name not in in_layer_norms and not _NOT_DECAYED.search(name.lower())
    )


def _loraplus_factors(
    parameters: Mapping[str, torch.Tensor],
    *,
    of_embeddings: set[str],
    ratio: float,
    embedding: float | None,
    learning_rate: float,
) -> dict[str, float]:
    if not any("lora_B" in name for name in parameters if name not in of_embeddings):
        raise InputError(
            f"loraplus_lr_ratio {ratio:g} changes the learning rate of lora_B, and no trained "
            f"parameter is one; trained: {', '.join(sorted(parameters)[:5])}. Remove the option, "
            "or adapt linear layers (adapter.target_modules)."
        )
    if embedding is not None and not of_embeddings & parameters.keys():
        raise InputError(
            f"loraplus_lr_embedding {embedding:g} is the learning rate of adapted embeddings, and "
            "no embedding is adapted. Remove the option, or name an embedding in "
            "adapter.target_modules."
        )
    rate = LORAPLUS_LR_EMBEDDING if embedding is None else embedding
    factors = {}
    for name, parameter in parameters.items():
        if name in of_embeddings:
            factors[name] = rate / learning_rate
        else:
            factors[name] = ratio if "lora_B" in name or parameter.dim() == 1 else 1.0
    return factors


def _embedding_parameters(model: nn.Module) -> Iterator[str]:
    """Names of what trains of an embedding: its weight, its low-rank factors, single rows of it."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            names = [name for name, _ in module.named_parameters(prefix=path, recurse=False)]
        elif isinstance(dict(module.named_children()).get("base_layer"), nn.Embedding):
            names = [name for name, _ in module.named_parameters(prefix=path)]
        else:
            continue
        yield from names
