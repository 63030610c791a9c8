"""Whether somebody looks at a module: then it stays, and no faster one takes its place."""

from __future__ import annotations

from torch import nn


def is_watched(module: nn.Module) -> bool:
    """Whether somebody wants to see the module called, or to change what it gives."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
