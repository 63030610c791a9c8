"""`base`: the frozen model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorakit.recipe.sections.section import DtypeName, Section


class BaseSection(Section):
    """The frozen base model."""

    model: str = Field(description="A folder, a hub id, or `builtin` (`./builtin` is a folder).")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    quantization: Literal["none", "nf4", "fp4", "int8", "checkpoint"] = Field(
        "none",
        description="Storage of the frozen linear weights; `checkpoint`: as they are on disk.",
    )
    double_quantization: bool = Field(
        True, description="Quantize the block scales of nf4 and fp4 as well."
    )
    block_size: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = Field(
        64, description="Weights that share one scale in nf4 and fp4."
    )
    dtype: DtypeName = Field(
        "auto", description="Compute dtype; auto: bfloat16 on GPUs that have it, float32 on CPU."
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda`, `cuda:0`.")
    offload: Literal["auto", "none", "cpu", "disk"] = Field(
        "auto",
        description="Where frozen layers live that do not fit the device (auto: if needed).",
    )
    max_device_memory: str | None = Field(
        None,
        description="Bytes of frozen weights on the device, such as `6GB`; the rest is offloaded.",
    )
    add_tokens: list[str] | None = Field(
        None, description="Texts that become one new token each; only their rows train."
    )
    add_special_tokens: list[str] | None = Field(
        None, description="As add_tokens, for control tokens that text never spells."
    )
