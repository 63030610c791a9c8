"""What an adapter kind and an init are: the contracts of the files in `adapters/kinds/` and
`adapters/inits/`.

O out_features, I in_features, R rank. The laws of the test-suite run over every file in both
folders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from lorakit.base.frozen_linear import FrozenLinear


class NormCache:
    """Whether what depends only on the parameters may be reused between forward passes.

    Only a loop that knows when the parameters change may allow it: it raises `version` after every
    optimizer step. Everywhere else nothing is reused, because nobody would notice a changed
    parameter.
    """

    def __init__(self) -> None:
        self.allowed = False
        self.version = 0


class Kind(nn.Module):
    """A trainable change to one frozen linear layer.

    Subclasses hold float32 parameters, and compute in the dtype of the input: parameters are cast
    for the products, gradients arrive in float32. Every kind has the low-rank factors `lora_A` (R,
    I) and `lora_B` (O, R), which the inits fill.

    Args:
        in_features: I.
        out_features: O.
        r: R.
        scaling: factor of the low-rank product.
        device: where the parameters are made; `meta` makes shapes only.
        norm_cache: shared by all layers of a model; kinds without norms ignore it.
    """

    NAME: ClassVar[str]
    PEFT_FIELDS: ClassVar[dict[str, object]]
    """What an adapter_config.json says of this kind beyond `peft_type: LORA`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r: int,
        scaling: float,
        *,
        device: torch.device,
        norm_cache: NormCache,
    ) -> None:
        super().__init__()
        self.r = r
        self.scaling = scaling
        self.norm_cache = norm_cache
        self.lora_A = nn.Parameter(torch.zeros(r, in_features, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(out_features, r, dtype=torch.float32, device=device))

    def begin(self, base: FrozenLinear) -> None:
        """Called once, after the factors are filled: set what starts from the frozen weight."""

    def forward(
        self, x: torch.Tensor, base: FrozenLinear, low_rank_x: torch.Tensor
    ) -> torch.Tensor:
        """The adapted layer's output.

        Args:
            x: (..., I).
            base: the frozen layer; its bias is part of the output.
            low_rank_x: (..., I), `x` after dropout: the input of the low-rank branch only.

        Returns:
            (..., O) in the dtype of `x`.
        """
        raise NotImplementedError

    def merged_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """The dense weight (O, I) that computes the same without the adapter.

        Same dtype as `weight`, computed in float32 (float64 for a float64 weight), differentiable
        in the parameters.
        """
        raise NotImplementedError

    def peft_tensors(self) -> dict[str, nn.Parameter]:
        """{suffix in PEFT's file: parameter}, such as `lora_A.weight`, `lora_B.weight`."""
        raise NotImplementedError


@dataclass(frozen=True)
class InitRequest:
    """What an init may look at to fill one layer's factors.

    Attributes:
        name: module name in the model.
        in_features, out_features, r, scaling: of the layer.
        base: the frozen layer.
        generator: CPU generator seeded for this module alone, so the order of the layers does not
            matter.
        calibration: what the caller passed to `attach_adapter`, for inits that need data.
    """

    name: str
    in_features: int
    out_features: int
    r: int
    scaling: float
    base: FrozenLinear
    generator: torch.Generator
    calibration: Any


class Init(Protocol):
    """A file in `adapters/inits/`.

    `NAMES` are the values of `init_lora_weights` it serves; `STARTS_AT_BASE` says whether the
    adapted model computes what the base computes until the first update (law 1).
    """

    NAMES: tuple[bool | str, ...]
    STARTS_AT_BASE: bool
    initialize: Callable[[InitRequest], tuple[torch.Tensor, torch.Tensor]]
    """Returns lora_A (R, I) and lora_B (O, R), float32, on any device."""
