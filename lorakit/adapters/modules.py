"""The modules that `attach_adapter` puts into a model, and the state they share.

AdaptedLinear   a frozen linear layer with a trainable kind beside it
TrainedCopy     a module of `modules_to_save`: the frozen original and a float32 copy that trains
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lorakit import kernels
from lorakit.adapters.contract import (
    AdaptedFacts,
    AdaptedModule,
    Kind,
    NormCache,
    ParameterMerge,
    Switch,
    constant_merge,
)
from lorakit.adapters.kept_start import KeptStart
from lorakit.adapters.merge_error import error_on_probes
from lorakit.adapters.plain import plain_linear
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.errors import AdapterError


class Dropout:
    """Dropout on the inputs of all low-rank branches of a model.

    A loop of ours sets `rows` to one int64 key per token, made from (seed, step, example,
    position),
    before the forward pass and leaves it there until the backward pass is done: masks then are a
    pure function of the keys, so packing, micro-batching, recompute and resume do not change them.
    While `rows` is None (third-party trainers), torch's generator draws the masks.

    Attributes:
        p: probability to drop a feature, in [0, 1).
        rows: int64 (tokens of the forward pass,) or None.
    """

    def __init__(self, p: float) -> None:
        self.p = p
        self.rows: torch.Tensor | None = None

    def apply(self, x: torch.Tensor, module: str) -> torch.Tensor:
        """`x` (..., I) with features dropped, by the mask of the module named `module`."""
        dropped = self.of(module)
        if dropped is None:
            return nn.functional.dropout(x, self.p)
        self.check_rows(x.numel() // x.shape[-1], module)
        mask = kernels.dropout_mask(dropped.row_keys, x.shape[-1], self.p, x.dtype)
        return x * mask.view(x.shape)

    def of(self, module: str) -> kernels.Dropped | None:
        """The keyed dropout of the module named `module`; None where torch draws the masks."""
        if self.rows is None:
            return None
        return kernels.Dropped(kernels.mix_keys(self.rows, kernels.module_key(module)), self.p)

    def check_rows(self, num_rows: int, module: str) -> None:
        """Refuse a module that sees other rows than the tokens that have keys."""
        if self.rows is not None and num_rows != len(self.rows):
            raise AdapterError(
                f"lora_dropout {self.p} cannot be keyed in {module!r}: it sees {num_rows} rows, "
                f"the micro-batch has {len(self.rows)} tokens. Modules that see other rows than "
                "the tokens (experts, for one) train with lora_dropout 0, or leave them out with "
                "exclude_modules."
            )


@dataclass(frozen=True)
class Shared:
    """What all adapted modules of a model share."""

    dropout: Dropout
    switch: Switch
    norm_cache: NormCache

    @classmethod
    def fresh(cls, lora_dropout: float = 0.0) -> Shared:
        """Of a model that is switched on and caches nothing."""
        return cls(Dropout(lora_dropout), Switch(), NormCache())


class AdaptedLinear(AdaptedModule):
    """A frozen linear layer and the kind that changes it; stands where the linear layer stood.

    Parameter names below the layer's own name are `adapter.*` (float32, trained) and
    `base_layer.*`.

    Args:
        name: module name in the model.
        base_layer: the frozen layer.
        adapter: the trainable change.
        dropout, switch: shared by all adapted layers of the model.

    Attributes:
        kept_start: what of the adapter's start is part of the model while the adapter is disabled;
            None: nothing.
    """

    def __init__(
        self,
        name: str,
        base_layer: FrozenLinear,
        adapter: Kind,
        *,
        dropout: Dropout,
        switch: Switch,
        as_parameter: bool = False,
    ) -> None:
        super().__init__(name, switch)
        self.base_layer = base_layer
        self.adapter = adapter
        self._as_parameter = as_parameter
        self.dropout = dropout
        self.kept_start: KeptStart | None = None
        self.in_features = base_layer.in_features
        self.out_features = base_layer.out_features

    @property
    def target_parameter(self) -> str | None:
        return f"{self.name}.weight" if self._as_parameter else None

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight (O, I) the layer multiplies with: merged, or the one it started with
        while disabled.

        Some models read it instead of calling the layer (Mamba's `dt_proj`): they get the adapted
        one, with its gradient.
        """
        if not self.switch.on and self.kept_start is None:
            return self.base_layer.weight
        # Stored bytes may live in host memory or on disk while the layer computes elsewhere.
        frozen = self.base_layer.stored.dequantize(device=self.adapter.lora_A.device)
        if not self.switch.on and self.kept_start is not None:
            return self.kept_start.added_to(frozen)
        return self.adapter.merged_weight(frozen)

    @property
    def bias(self) -> nn.Parameter | None:
        """The frozen layer's bias."""
        bias = self.base_layer.bias
        assert bias is None or isinstance(bias, nn.Parameter)
        return bias

    def projection(self, num_rows: int) -> kernels.Projection | None:
        """What `kernels.projections` computes this layer from, for `num_rows` rows of input; None
        where only `forward` can.
        """
        if not self.switch.on:
            if self.kept_start is not None:
                return None
            return kernels.Projection(self.base_layer.stored, self.base_layer.bias)
        if not self._drops:
            return self.adapter.projection(self.base_layer, None)
        self.dropout.check_rows(num_rows, self.name)
        dropped = self.dropout.of(self.name)
        return None if dropped is None else self.adapter.projection(self.base_layer, dropped)

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout.p > 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (kernels.autocasts(x) or kernels.is_reference_forced()):
            projection = self.projection(x.numel() // x.shape[-1])
            if projection is not None:
                return kernels.projections(x, (projection,))[0]
        if not self.switch.on:
            y = self.base_layer(x)
            return y if self.kept_start is None else y + self.kept_start(x)
        dropped = self._drops
        low_rank_x = self.dropout.apply(x, self.name) if dropped else x
        return self.adapter(x, self.base_layer, low_rank_x)

    @property
    def facts(self) -> AdaptedFacts:
        """Shape (O, I), rank and scaling."""
        shape = self.out_features, self.in_features
        return AdaptedFacts(shape, self.adapter.r, self.adapter.scaling)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {f"adapter.{name}": p for name, p in self.adapter.named_parameters()}

    def kept_tensors(self) -> list[torch.Tensor]:
        kept = [] if self.kept_start is None else self.kept_start.buffers()
        return [*self.adapter.buffers(), *kept]

    def peft_names(self) -> dict[str, str]:
        names = {id(p): name for name, p in self.trained_parameters().items()}
        return {suffix: names[id(p)] for suffix, p in self.adapter.peft_tensors().items()}

    def plain_module(self) -> nn.Module:
        return plain_linear(self.base_layer, self.weight)

    def merges(self) -> dict[str, ParameterMerge]:
        transposed = self.base_layer.fan_in_fan_out  # Conv1D stores (I, O)

        def change(weight: torch.Tensor) -> torch.Tensor:
            if not transposed:
                return self.adapter.merged_weight(weight)
            return self.adapter.merged_weight(weight.t().contiguous()).t()

        def error(weight: torch.Tensor, merged: torch.Tensor) -> float:
            if transposed:
                weight, merged = weight.t(), merged.t()
            return error_on_probes(self.adapter, weight, merged)

        return {"weight": ParameterMerge(change, error=error)}

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class TrainedCopy(AdaptedModule):
    """A module trained in full: the original stays frozen, a float32 copy trains in its place.

    The copy is cast to the original's dtype for the forward pass, so gradients arrive in float32.
    Parameter names below the module's own name are `trained.*` and `original.*`.

    Args:
        name: module name in the model.
        original: the frozen module.
        copied: a dense copy of it in its dtype; becomes the trained module.
        switch: shared by all adapted modules of the model.
    """

    def __init__(
        self, name: str, original: nn.Module, copied: nn.Module, *, switch: Switch
    ) -> None:
        super().__init__(name, switch)
        self._dtypes = {name: tensor.dtype for name, tensor in copied.named_parameters()}
        for parameter in copied.parameters():
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        self.original = original.requires_grad_(False)
        self.trained = copied.requires_grad_(True)
        self.train(original.training)

    @property
    def weight(self) -> torch.Tensor:
        """The weight in use, in the original's dtype."""
        return self._cast()["weight"] if self.switch.on else self.original.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias in use, in the original's dtype; None when the module has none."""
        tensors = self._cast() if self.switch.on else dict(self.original.named_parameters())
        return tensors.get("bias")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.switch.on:
            return self.original(*args, **kwargs)
        return torch.func.functional_call(self.trained, self._cast(), args, kwargs)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {f"trained.{name}": p for name, p in self.trained.named_parameters()}

    def peft_names(self) -> dict[str, str]:
        return {name: f"trained.{name}" for name in self.trained.state_dict()}

    def merges(self) -> dict[str, ParameterMerge]:
        return {name: constant_merge(value) for name, value in self.trained.state_dict().items()}

    @torch.no_grad()
    def plain_module(self) -> nn.Module:
        """The trained module alone, in the original's dtype, with parameters of its own."""
        plain = copy.deepcopy(self.trained)
        for name, parameter in plain.named_parameters():
            parameter.data = parameter.data.to(self._dtypes[name])
        return plain

    def _cast(self) -> dict[str, torch.Tensor]:
        return {
            name: parameter.to(self._dtypes[name])
            for name, parameter in self.trained.named_parameters()
        }
