"""What an adapted module, an adapter kind and an init are.

`AdaptedModule` is the contract of everything that `attach_adapter` puts into a model: saving,
loading, planning and merging loop over these modules and never ask which one it is. `Kind` and
`Init` are those of the files in `adapters/kinds/` and `adapters/inits/`, over which the laws of the
test-suite run.

O out_features, I in_features, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.base.frozen_linear import FrozenLinear, FrozenWeight
from lorakit.recipe import LoraConfig

if TYPE_CHECKING:
    from lorakit.adapters.targets import Targets


class NormCache:
    """Whether what depends only on the parameters may be reused between forward passes.

    Only a loop that knows when the parameters change may allow it: it raises `version` after every
    optimizer step. Everywhere else nothing is reused, because nobody would notice a changed
    parameter.
    """

    def __init__(self) -> None:
        self.allowed = False
        self.version = 0


class Switch:
    """Whether the adapter of a model takes part in its forward pass."""

    def __init__(self) -> None:
        self.on = True


@dataclass(frozen=True)
class AdaptedFacts:
    """One module with low-rank factors: shape of its frozen weight ((O, I) of a linear layer, (E,
    O, I) of experts), rank and scaling.
    """

    shape: tuple[int, ...]
    r: int
    scaling: float


@dataclass(frozen=True)
class ParameterMerge:
    """How one parameter of a merged model comes about.

    Attributes:
        change: the base's parameter, in the layout of the plain module, -> the merged one;
            computed in the dtype it is given, float32 or wider.
        reads_base: False where the base's value does not matter; `change` may be given anything.
        error: (base's parameter, merged parameter) -> relative error against what the adapted
            module computes in float64; None where the value is a copy.
    """

    change: Callable[[torch.Tensor], torch.Tensor]
    reads_base: bool = True
    error: Callable[[torch.Tensor, torch.Tensor], float] | None = None


def constant_merge(value: torch.Tensor) -> ParameterMerge:
    """The merge of a parameter that was trained itself."""
    return ParameterMerge(lambda _: value, reads_base=False)


class AdaptedModule(nn.Module):
    """What stands in a model at the place of a module that is adapted or trained.

    Attributes:
        name: module name in the model.
        switch: shared by all adapted modules of a model; while it is off, the module computes what
            the base's module computes.
    """

    tied: tuple[str, ...] = ()
    """Names of other modules over the same base weight, whose weight follows this one's when it is
    merged."""

    def __init__(self, name: str, switch: Switch) -> None:
        super().__init__()
        self.name = name
        self.switch = switch

    @property
    def file_name(self) -> str:
        """Name in PEFT's file of the module it adapts."""
        return self.name

    @property
    def target_parameter(self) -> str | None:
        """Name in the plain model of the parameter it adapts, where PEFT's format names that (in
        `target_parameters`) and not a module.
        """
        return None

    @property
    def facts(self) -> AdaptedFacts | None:
        """Of a module with low-rank factors; None for the others."""
        return None

    def start(self, generator: torch.Generator) -> None:
        """Fill the trained parameters before training; called once, unless an init does it.

        Args:
            generator: CPU generator seeded for this module alone.
        """

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """{name below the module: trained parameter}, those that another module trains left out."""
        raise NotImplementedError

    def kept_tensors(self) -> list[torch.Tensor]:
        """What the adapter keeps in memory beside the trained parameters, such as DoRA's norms."""
        return []

    def peft_names(self) -> dict[str, str]:
        """{suffix of `file_name` in PEFT's file: parameter or buffer below the module}.

        Such as `lora_A.weight: adapter.lora_A`. Holds on the meta device too.
        """
        raise NotImplementedError

    def plain_module(self) -> nn.Module | nn.Parameter:
        """The library's own module that computes the same, merged, with parameters of its own; a
        parameter where the adapted module stands in for one.

        Where the base's module of a merged model has no place for what is trained: AdapterError.
        """
        raise NotImplementedError

    def merges(self) -> dict[str, ParameterMerge]:
        """{parameter of the plain module: how it is merged}; parameters that stay are left out.

        The name is "" where the module stands in for the parameter itself.
        """
        raise NotImplementedError


class Kind(nn.Module):
    """A trainable change to one frozen linear layer.

    It depends on the frozen weight W and the factors only through `W + scaling * B @ A`: what an
    init moves from one to the other changes nothing.

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
    KEEPS_OUTPUT: ClassVar[bool] = False
    """Whether the backward pass reads the layer's output."""

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
        down = low_rank_x @ self.lora_A.to(x.dtype).T  # (..., R)
        y = self.combine(base.product(x), down, base)
        return y if base.bias is None else y + base.bias.to(x.dtype)

    def projection(
        self, base: FrozenLinear, dropout: kernels.Dropped | None
    ) -> kernels.Projection | None:
        """The adapted layer for `kernels.projections`, which computes what `forward` does; None: a
        kind that those do not cover.

        Args:
            dropout: of the low-rank input.
        """
        return None

    def combine(
        self, product: torch.Tensor, down: torch.Tensor, base: FrozenLinear
    ) -> torch.Tensor:
        """The adapted product, for layers whose inputs are never made (an embedding's are one-hot)
        and for the rows of a mixed batch, whose frozen product is made for all at once.

        Args:
            product: (..., O), what the frozen weight makes of the inputs, without bias.
            down: (..., R), what `lora_A` makes of them.
            base: the frozen layer, for kinds that need its weight.

        Returns:
            (..., O) in the dtype of `product`.
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
class Factors:
    """`lora_A` (R, I) and `lora_B` (O, R) of a low-rank product `scaling * B @ A`, float32."""

    lora_A: torch.Tensor
    lora_B: torch.Tensor


@dataclass(frozen=True)
class Start:
    """Where one layer's adapter starts.

    Attributes:
        lora_A, lora_B: float32 (R, I) and (O, R), on any device.
        subtracted: factors A0, B0 to be taken out of the base: the frozen weight becomes
            pack(W - scaling * B0 @ A0), W the original weight; None: it stays as it is.
        is_part_of_base: the start factors belong to the model as it started: with the adapter
            disabled the layer still adds them. False: disabled, the layer is the frozen one alone.
    """

    lora_A: torch.Tensor
    lora_B: torch.Tensor
    subtracted: Factors | None = None
    is_part_of_base: bool = False

    @property
    def corrects_base(self) -> bool:
        """Whether the base gains more than it lost (loftq): the plain form holds that too."""
        taken = self.subtracted
        same = taken is not None and taken.lora_A is self.lora_A and taken.lora_B is self.lora_B
        return self.is_part_of_base and not same


@dataclass(frozen=True)
class Survey:
    """What is known before the first layer is initialized; an init's `prepare` may change it.

    Attributes:
        model: without the adapter.
        config: what to adapt and how, with the ranks in effect.
        targets: the modules it names.
        calibration: batches that the caller passed to `attach_adapter`; None: none.
        measured: {module name: what `prepare` found out about it}.
    """

    model: PreTrainedModel
    config: LoraConfig
    targets: Targets
    calibration: Iterable[Mapping[str, torch.Tensor]] | None = None
    measured: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class InitRequest:
    """What an init may look at to start one layer.

    Everything is on the meta device, shapes without data, where the model is.

    Attributes:
        name: module name in the model.
        in_features, out_features, r, scaling: of the layer.
        config: of the adapter, for the init's own options.
        base: the frozen layer.
        is_packed: its weight is stored quantized.
        generator: CPU generator seeded for this module alone, so the order of the layers does not
            matter.
        original: the weight (O, I) that the stored one was packed from, in the base's dtype; read
            from the checkpoint when called. A dense layer's own weight.
        pack: a dense weight (O, I) as this layer stores it.
        measured: what the init's `prepare` found out about this layer; None: nothing.
    """

    name: str
    in_features: int
    out_features: int
    r: int
    scaling: float
    config: LoraConfig
    base: FrozenLinear
    is_packed: bool
    generator: torch.Generator
    original: Callable[[], torch.Tensor]
    pack: Callable[[torch.Tensor], FrozenWeight]
    measured: torch.Tensor | None


def nothing_to_prepare(survey: Survey) -> Survey:
    """`prepare` of an init that looks at one layer at a time."""
    return survey


class Init(Protocol):
    """A file in `adapters/inits/`.

    Attributes:
        NAMES: the values of `init_lora_weights` it serves; a capital N stands for a number.
        STARTS_AT_BASE: the adapted model computes what the base computes until the first update
            (law 1); on a quantized base it may be closer to the original weights instead.
        NEEDS_CALIBRATION: `prepare` looks at `Survey.calibration`.
        prepare: called once, before the first layer; raises AdapterError where the init cannot
            work. On the meta device it looks at no data.
        initialize: the start of one layer.
    """

    NAMES: tuple[bool | str, ...]
    STARTS_AT_BASE: bool
    NEEDS_CALIBRATION: bool
    prepare: Callable[[Survey], Survey]
    initialize: Callable[[InitRequest], Start]
