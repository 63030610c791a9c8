"""The public names of lorakit, loaded when first used: `import lorakit` imports no torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorakit.adapters.arithmetic.combine import combine_adapters
    from lorakit.adapters.arithmetic.convert import convert_adapter
    from lorakit.adapters.arithmetic.info import adapter_info
    from lorakit.adapters.attach import adapter_disabled, attach_adapter
    from lorakit.adapters.mixed import adapters_by_row
    from lorakit.adapters.several import adapter_names, drop_adapter, use_adapter
    from lorakit.adapters.store import load_adapter, save_adapter
    from lorakit.base.load import load_base
    from lorakit.base.storages import nf4
    from lorakit.base.vocabulary import add_tokens
    from lorakit.compare.ways import compare_ways
    from lorakit.errors import (
        AdapterError,
        CheckpointError,
        DataError,
        InputError,
        LorakitError,
        ModelError,
        NonFiniteError,
        RecipeError,
        RunError,
        VerificationError,
    )
    from lorakit.finetune import evaluate_run, finetune
    from lorakit.lint.check import check
    from lorakit.recipe import (
        LoraConfig,
        Recipe,
        SFTConfig,
        dump_recipe,
        load_recipe,
        parse_recipe,
        recipe_schema,
    )
    from lorakit.retrieve.prompt import with_documents
    from lorakit.retrieve.retriever import Retriever
    from lorakit.ship.merge import merge
    from lorakit.train.sft import train_sft

__all__ = [
    "AdapterError",
    "CheckpointError",
    "DataError",
    "InputError",
    "LoraConfig",
    "LorakitError",
    "ModelError",
    "NonFiniteError",
    "Recipe",
    "RecipeError",
    "Retriever",
    "RunError",
    "SFTConfig",
    "VerificationError",
    "adapter_disabled",
    "adapter_info",
    "adapter_names",
    "adapters_by_row",
    "add_tokens",
    "attach_adapter",
    "check",
    "combine_adapters",
    "compare_ways",
    "convert_adapter",
    "drop_adapter",
    "dump_recipe",
    "evaluate_run",
    "finetune",
    "load_adapter",
    "load_base",
    "load_recipe",
    "merge",
    "nf4",
    "parse_recipe",
    "recipe_schema",
    "save_adapter",
    "train_sft",
    "use_adapter",
    "with_documents",
]

_HOMES = {
    "lorakit.adapters.arithmetic.combine": ("combine_adapters",),
    "lorakit.adapters.arithmetic.convert": ("convert_adapter",),
    "lorakit.adapters.arithmetic.info": ("adapter_info",),
    "lorakit.adapters.attach": ("adapter_disabled", "attach_adapter"),
    "lorakit.adapters.mixed": ("adapters_by_row",),
    "lorakit.adapters.several": ("adapter_names", "drop_adapter", "use_adapter"),
    "lorakit.adapters.store": ("load_adapter", "save_adapter"),
    "lorakit.base.load": ("load_base",),
    "lorakit.base.vocabulary": ("add_tokens",),
    "lorakit.base.storages": ("nf4",),
    "lorakit.compare.ways": ("compare_ways",),
    "lorakit.errors": tuple(name for name in __all__ if name.endswith("Error")),
    "lorakit.finetune": ("evaluate_run", "finetune"),
    "lorakit.lint.check": ("check",),
    "lorakit.recipe": (
        "LoraConfig",
        "Recipe",
        "SFTConfig",
        "dump_recipe",
        "load_recipe",
        "parse_recipe",
        "recipe_schema",
    ),
    "lorakit.retrieve.prompt": ("with_documents",),
    "lorakit.retrieve.retriever": ("Retriever",),
    "lorakit.ship.merge": ("merge",),
    "lorakit.train.sft": ("train_sft",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


class _Package(ModuleType):
    """Keeps `lorakit.finetune` the function: importing the module of that name would replace it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME_OF[name]
    if home == "lorakit.base.storages":  # nf4 is a module, not a name in one
        return importlib.import_module(f"{home}.{name}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
