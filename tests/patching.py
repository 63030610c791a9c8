"""Law 11: nothing is patched. What every attribute of other packages is, and how it changed."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "json",
    "builtins",
)

# Modules that keep counters and caches of their own, by prefix.
OWN_STATE = (
    "torch._dynamo",
    "torch._inductor",
    "torch._functorch",
    "torch.fx",
    "torch.utils._pytree",
)

Snapshot = dict[tuple[str, str, str], int]


def snapshot(packages: Iterable[str] = PACKAGES) -> Snapshot:
    """{(module, class or "", attribute): identity} of functions and classes of loaded modules."""
    seen: Snapshot = {}
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] not in packages or name.startswith(OWN_STATE):
            continue
        for attribute, value in list(vars(module).items()):
            if callable(value):
                seen[name, "", attribute] = id(value)
            # Not isinstance: it would ask objects that answer every question, with a warning.
            if issubclass(type(value), type) and value.__module__ == name:
                for member, inner in list(vars(value).items()):
                    if callable(inner) or isinstance(inner, property | staticmethod | classmethod):
                        seen[name, value.__qualname__, member] = id(inner)
    return seen


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """What is another object now, gone, or new in a module that was loaded before."""
    modules = {module for module, _, _ in before}
    classes = {(module, owner) for module, owner, _ in before}
    lines = []
    for key in sorted(before.keys() | after.keys()):
        module, owner, attribute = key
        if before.get(key) == after.get(key) or module not in modules:
            continue
        if key not in before and not _is_surprising(module, owner, attribute, classes):
            continue
        path = ".".join(part for part in key if part)
        lines.append(f"{path}: {'changed' if key in before and key in after else 'new or gone'}")
    return lines


@contextmanager
def nothing_patched() -> Iterator[None]:
    """Fail when an attribute of another package changed inside the block."""
    before = snapshot()
    yield
    found = changes(before, snapshot())
    if found:
        raise AssertionError("patched: " + "; ".join(found[:20]))


def _is_surprising(module: str, owner: str, attribute: str, classes: set[tuple[str, str]]) -> bool:
    """Whether a new name is a patch rather than a submodule or a lazily imported name."""
    if owner:
        return (module, owner) in classes
    value = vars(sys.modules[module]).get(attribute)
    if isinstance(value, types.ModuleType):
        return False
    # transformers and others import lazily: their modules fill in names of their own package.
    home = getattr(value, "__module__", None) or ""
    return home.partition(".")[0] != module.partition(".")[0]
