"""Routers do not train here.

A router that trains needs something that keeps its experts in balance, or a few of them take all
tokens. The usual auxiliary loss (Switch Transformer, arXiv 2101.03961, equations 4 to 6) is a
product of means over the tokens of one forward pass: no sum over examples, so that packing,
micro-batches and ranks would change what is trained (laws 3 and 4). docs/targets/experts.md has the
whole policy.
"""

from __future__ import annotations

from lorakit.adapters.attached import Attached
from lorakit.base.packing import ROUTERS
from lorakit.errors import AdapterError

MAX_NAMES_IN_MESSAGE = 3


def trained_routers(adapter: Attached) -> list[str]:
    """Names of the trained parameters that decide to which experts a token is sent."""
    return [name for name in adapter.parameters() if not ROUTERS.isdisjoint(name.split("."))]


def refuse_trained_routers(adapter: Attached) -> None:
    """Raise AdapterError, before training, for an adapter that changes how tokens are routed."""
    names = trained_routers(adapter)
    if names:
        shown = ", ".join(names[:MAX_NAMES_IN_MESSAGE]) + (
            ", ..." if len(names) > MAX_NAMES_IN_MESSAGE else ""
        )
        raise AdapterError(
            f"the adapter trains routers of experts ({len(names)} parameters: {shown}); possible: "
            "routers that stay frozen, because the auxiliary loss that keeps experts in balance "
            "depends on how examples share a forward pass, and there is none here. Take them out "
            "of adapter.target_modules, target_parameters and modules_to_save; bias 'all' trains "
            "their biases, 'lora_only' does not."
        )
