"""What `adapter` may not say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorakit.recipe.quantizations import BITS
from lorakit.recipe.rules.fault import Fault, names_in, no_effect, not_built, unknown

if TYPE_CHECKING:
    from lorakit.recipe.sections.adapter import LoraConfig
    from lorakit.recipe.sections.recipe import Recipe

# PEFT's initializations that lorakit does not have: refused by name instead of "unknown".
INITS_NOT_BUILT = ("corda", "lora_ga", "mica", "orthogonal")


def adapter_rules(adapter: LoraConfig) -> Iterator[Fault]:
    """The rules of the adapter section alone."""
    kinds = names_in("adapters/kinds")
    if adapter.kind is not None and adapter.kind not in kinds:
        yield unknown(("adapter", "kind"), adapter.kind, kinds)
    init = adapter.init_lora_weights
    if isinstance(init, str) and init.lower() in INITS_NOT_BUILT:
        yield not_built(
            ("adapter", "init_lora_weights"), init, ("true", "false", *names_in("adapters/inits"))
        )
    if adapter.target_parameters:
        for name, given in (
            ("use_dora", adapter.use_dora),
            ("lora_dropout", adapter.lora_dropout > 0),
        ):
            if given:
                yield Fault(
                    ("adapter", name),
                    "cannot be applied to target_parameters; possible for experts in PEFT's format "
                    "is plain LoRA without dropout. Remove one of the two",
                )
    if adapter.layers_pattern is not None and adapter.layers is None:
        yield no_effect(
            ("adapter", "layers_pattern"), "adapter.layers_to_transform is not set", "set it"
        )
    for name, section in (("loftq", "loftq_config"), ("eva", "eva_config")):
        if getattr(adapter, section) is not None and init != name:
            yield no_effect(
                ("adapter", section),
                f"adapter.init_lora_weights is {str(init).lower()}",
                f"set it to {name}",
            )
    if adapter.path is not None:
        for name in sorted(adapter.model_fields_set - {"path"}):
            yield no_effect(
                ("adapter", name),
                "adapter.path continues from a saved adapter, whose own config says it",
                "leave path out to start a new adapter",
            )


def loftq_rules(recipe: Recipe) -> Iterator[Fault]:
    """LoftQ corrects what the base's storage takes from the weights."""
    adapter, stored = recipe.adapter, recipe.base.quantization
    if adapter.init_lora_weights != "loftq":
        return
    if stored == "none":
        yield no_effect(
            ("adapter", "init_lora_weights"), "base.quantization is none", "set that to nf4"
        )
    bits = None if adapter.loftq_config is None else adapter.loftq_config.loftq_bits
    if bits is not None and stored in BITS and bits != BITS[stored]:
        yield Fault(
            ("adapter", "loftq_config", "loftq_bits"),
            f"{bits} is not what the base is stored in; possible: {BITS[stored]}, the bits of "
            f"base.quantization {stored}",
        )
