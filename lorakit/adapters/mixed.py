"""One forward pass for rows of several adapters: stand-ins that give each token its own.

MixedLinear   the frozen product once for all tokens, then each adapter's change on its own tokens
MixedRows     any other module that treats each token alone: called once for each adapter

T tokens, I in_features, O out_features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.attached import Attached, adapters_of, attached
from lorakit.adapters.contract import AdaptedModule
from lorakit.adapters.mixture import Grouping, Mixture
from lorakit.adapters.modules import AdaptedLinear, TrainedCopy
from lorakit.adapters.several import (
    find,
    follow,
    put_in,
    refuse_fixed,
    replace_modules,
    take_out,
)
from lorakit.adapters.word_embeddings import is_embedding
from lorakit.base.frozen_linear import FrozenLinear, frozen, is_linear
from lorakit.base.head import backbone
from lorakit.errors import AdapterError


@contextmanager
def adapters_by_row(model: PreTrainedModel, names: Sequence[str | None]) -> Iterator[None]:
    """Inside, each sequence of a batch passes its own adapter, in one forward pass.

    Gradients reach every adapter that a pass uses. A backward pass that computes layers again
    (gradient checkpointing) belongs inside.

    Args:
        model: with attached adapters.
        names: for each sequence of the batch the name of its adapter, None for the base alone; for
            sequences packed into one row, one for each token.

    Raises:
        AdapterError: a name that no adapter has, an adapter with a part that cannot tell tokens
            apart, or (from the forward pass) a batch of another size.
    """
    with mixed(model, names) as mixture:
        mixture.choose(names)
        yield


@contextmanager
def mixed(model: PreTrainedModel, names: Sequence[str | None]) -> Iterator[Mixture]:
    """As `adapters_by_row`, for the adapters named; which sequence has which is chosen anew before
    any pass.
    """
    in_use, adapters = attached(model), adapters_of(model)
    used = [name for name in dict.fromkeys(names) if name is not None]
    chosen = [find(model, name) for name in used]
    refuse_fixed(model, in_use)
    for adapter in chosen:
        _refuse_unmixable(adapter)
    mixture = Mixture(used, model.device)
    take_out(model, in_use)
    for adapter in chosen:
        follow(model, adapter)
    originals = {name: module for one in chosen for name, module in one.replaced.items()}
    stand_ins = {
        name: _stand_in(model, name, original, chosen, mixture)
        for name, original in originals.items()
    }
    replace_modules(model, {id(originals[name]): module for name, module in stand_ins.items()})
    hook = backbone(model).register_forward_pre_hook(mixture.begin_pass, with_kwargs=True)
    adapters.by_row = True
    try:
        yield mixture
    finally:
        adapters.by_row = False
        hook.remove()
        for name, module in stand_ins.items():
            originals[name].train(module.training)
        replace_modules(model, {id(module): originals[name] for name, module in stand_ins.items()})
        put_in(model, in_use)


def _refuse_unmixable(adapter: Attached) -> None:
    alone = f"Run its rows alone, after lorakit.use_adapter(model, {adapter.name!r})."
    if adapter.biases:
        raise AdapterError(
            f"adapter {adapter.name!r} has bias {adapter.config.bias!r}, which changes the base "
            f"for all rows; possible in a mixed batch: bias 'none'. {alone}"
        )
    for name, module in adapter.modules.items():
        original = adapter.replaced[name]
        if not (is_linear(original) or is_embedding(original) or _is_norm(module, original)):
            raise AdapterError(
                f"adapter {adapter.name!r} changes {name!r}, a {type(original).__name__}, which "
                "is not known to treat each token by itself; possible in a mixed batch: linear "
                f"layers, embeddings and norms. {alone}"
            )


def _is_norm(module: AdaptedModule, original: nn.Module) -> bool:
    # transformers has a class of its own for each family: LlamaRMSNorm, Gemma3RMSNorm, LayerNorm.
    return isinstance(module, TrainedCopy) and type(original).__name__.endswith("Norm")


def _stand_in(
    model: PreTrainedModel,
    name: str,
    original: nn.Module,
    adapters: Sequence[Attached],
    mixture: Mixture,
) -> nn.Module:
    modules = {
        index: one.modules[name] for index, one in enumerate(adapters) if name in one.modules
    }
    is_head = original is model.get_output_embeddings()
    linear = {i: module for i, module in modules.items() if isinstance(module, AdaptedLinear)}
    stand_in = (
        MixedLinear(name, frozen(original), linear, mixture, is_head=is_head)
        if len(linear) == len(modules)
        else MixedRows(name, original, modules, mixture, is_head=is_head)
    )
    return stand_in.train(original.training)


class Mixed(nn.Module):
    """A stand-in for a module that tokens of one pass have in several versions.

    Args:
        name: module name in the model.
        base_layer: what computes for tokens of an adapter that leaves this module alone.
        modules: {index of the adapter in the mixture: its module here}.
        mixture: of the model.
        is_head: it may see the last tokens of the sequences only.
    """

    def __init__(
        self,
        name: str,
        base_layer: nn.Module,
        modules: Mapping[int, AdaptedModule],
        mixture: Mixture,
        *,
        is_head: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.base_layer = base_layer
        self.members = nn.ModuleList(modules.values())
        self._places = {index: place for place, index in enumerate(modules)}
        self.mixture = mixture
        self.is_head = is_head

    @property
    def weight(self) -> torch.Tensor:
        """There is none: each token has its own."""
        raise AdapterError(
            f"the model reads the weight of {self.name!r} itself; in a mixed batch each adapter "
            "has its own; possible: modules that are called. Leave it out of these adapters "
            "(adapter.exclude_modules), or run their rows alone."
        )

    def _grouping(self, num_rows: int) -> Grouping:
        return self.mixture.grouping(num_rows, self.name, is_head=self.is_head)

    def _member(self, index: int) -> Any:
        place = self._places.get(index)
        return None if place is None else self.members[place]


class MixedLinear(Mixed):
    """A linear layer that every adapter here changes by a kind: W is read, and unpacked, once."""

    base_layer: FrozenLinear

    @property
    def bias(self) -> nn.Parameter | None:
        """The frozen layer's bias."""
        return self.base_layer.bias

    @property
    def in_features(self) -> int:
        """I"""
        return self.base_layer.in_features

    @property
    def out_features(self) -> int:
        """O"""
        return self.base_layer.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        grouping = self._grouping(len(x_TI))
        product_TO = self.base_layer.product(x_TI)
        parts = grouping.split(x_TI), grouping.split(product_TO)
        pieces = []
        for place, (index, x_NI, product_NO) in enumerate(
            zip(grouping.indices, *parts, strict=True)
        ):
            member = self._member(index)
            if member is None:
                pieces.append(product_NO)
                continue
            if member.training and member.dropout.p > 0:  # keyed by all tokens of the pass
                x_NI = grouping.split(member.dropout.apply(x_TI, self.name))[place]
            down_NR = x_NI @ member.adapter.lora_A.to(x.dtype).T
            pieces.append(member.adapter.combine(product_NO, down_NR, self.base_layer))
        y_TO = grouping.join(pieces)
        if self.bias is not None:
            y_TO = y_TO + self.bias.to(y_TO.dtype)
        return y_TO.view(*x.shape[:-1], y_TO.shape[-1])


class MixedRows(Mixed):
    """An embedding, norm or head: each adapter's module is called with its own tokens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = () if is_embedding(self.base_layer) else x.shape[-1:]
        tokens = x.shape[: x.dim() - len(features)]
        rows = x.reshape(-1, *features)
        grouping = self._grouping(len(rows))
        pieces = []
        for index, part in zip(grouping.indices, grouping.split(rows), strict=True):
            member = self._member(index)
            pieces.append((self.base_layer if member is None else member)(part[None])[0])
        y = grouping.join(pieces)
        return y.view(*tokens, y.shape[-1])
