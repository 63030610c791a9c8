"""`adapter`: LoRA, with the names of PEFT's LoraConfig."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lorakit.recipe.sections.section import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
)


class LoftqConfig(Section):
    """How init `loftq` fits the quantization error."""

    loftq_bits: Literal[2, 4, 8] | None = Field(
        None, description="Bits of the base's storage, which decides; null: whatever they are."
    )
    loftq_iter: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="How often base and factors are fitted to each other in turn."
    )


class EvaConfig(Section):
    """How init `eva` shares the rank out and reads its calibration batches."""

    rho: Annotated[float, Field(ge=1, le=1000)] = Field(
        2.0, description="A layer's rank may grow to rho times its own; 1: ranks stay."
    )
    tau: Annotated[float, Field(ge=0, le=1)] = Field(
        0.99, description="A layer is done once its directions turn less than this cosine."
    )
    use_label_mask: bool = Field(True, description="Only tokens that are trained count.")
    whiten: bool = Field(False, description="Scale directions down by their spread.")
    adjust_scaling_factors: bool = Field(
        True, description="Scaling stays what it was whatever rank a layer got."
    )


class LoraConfig(Section):
    """The adapter: names, meanings and defaults of PEFT's LoraConfig unless said otherwise.

    The default rank is 16 (PEFT: 8), the default alpha twice the rank, targets all linear layers.
    """

    kind: str | None = Field(
        None, description="Adapter kind by its file name in adapters/kinds; null: by use_dora."
    )
    r: Annotated[int, Field(ge=1, le=4096)] = Field(16, description="Rank.")
    lora_alpha: PositiveFloat | None = Field(
        None, description="Scaling numerator; null: twice a module's rank, with rsLoRA 8."
    )
    lora_dropout: Probability = Field(
        0.0, description="Dropout on the input of the low-rank branch only."
    )
    target_modules: str | list[str] = Field(
        "all-linear",
        description='"all-linear" (without the output head), a list of name endings, or a regex.',
    )
    target_parameters: list[str] | None = Field(
        None,
        description="Name endings of expert parameters; null: all with all-linear, else none.",
    )
    exclude_modules: str | list[str] | None = Field(
        None, description="Names or a regex to leave out."
    )
    layers_to_transform: NonNegativeInt | list[NonNegativeInt] | None = Field(
        None, description="Only these decoder layers; null: all."
    )
    layers_pattern: str | list[str] | None = Field(
        None, description="Name of the module list that layers_to_transform counts; null: any."
    )
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(r) (arXiv 2312.03732).")
    use_dora: bool = Field(False, description="Weight-decomposed LoRA (arXiv 2402.09353).")
    init_lora_weights: bool | str = Field(
        True,
        description="Init by name: true, false, gaussian, pissa, pissa_niter_N, olora, loftq, eva.",
    )
    loftq_config: LoftqConfig | None = Field(None, description="Options of init loftq.")
    eva_config: EvaConfig | None = Field(None, description="Options of init eva.")
    rank_pattern: dict[str, PositiveInt] = Field(
        default_factory=dict, description="{name or regex: rank}"
    )
    alpha_pattern: dict[str, PositiveFloat] = Field(
        default_factory=dict, description="{name or regex: alpha}"
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        "none", description="Which base biases train too."
    )
    modules_to_save: list[str] | None = Field(
        None, description="Modules trained in full and saved with the adapter."
    )
    trainable_token_indices: list[NonNegativeInt] | dict[str, list[NonNegativeInt]] | None = Field(
        None,
        description="Token ids whose rows of the input embedding train; or {module name: ids}.",
    )
    ensure_weight_tying: bool = Field(
        False, description="Refuse what would untie the output head from the embedding."
    )
    path: str | None = Field(None, description="Continue from the adapter in this folder.")

    @property
    def kind_name(self) -> str:
        """The file in adapters/kinds that implements this adapter."""
        return self.kind or ("dora" if self.use_dora else "lora")

    @property
    def layers(self) -> list[int] | None:
        """`layers_to_transform` as a list; None: all layers."""
        one = isinstance(self.layers_to_transform, int)
        layers = [self.layers_to_transform] if one else self.layers_to_transform
        return layers or None  # type: ignore[return-value]

    @property
    def patterns_of_layers(self) -> list[str]:
        """`layers_pattern` as a list; empty: any."""
        one = isinstance(self.layers_pattern, str)
        return [p for p in ([self.layers_pattern] if one else self.layers_pattern or []) if p]  # type: ignore[misc]

    @model_validator(mode="after")
    def _consistent(self) -> LoraConfig:
        if self.kind is not None and self.use_dora and self.kind != "dora":
            raise ValueError(f"use_dora is true but kind is {self.kind!r}; remove one of them")
        return self
