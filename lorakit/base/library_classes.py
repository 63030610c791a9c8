"""Classes of transformers that are told by their names.

To import the file of a family takes up to a tenth of a second, and each of these is for one family:
what was not imported has no instances.
"""

from __future__ import annotations

FALCON_LINEAR = "transformers.models.falcon.modeling_falcon.FalconLinear"
JETMOE_EXPERTS = "transformers.models.jetmoe.modeling_jetmoe.JetMoeParallelExperts"
LLAMA4_EXPERTS = "transformers.models.llama4.modeling_llama4.Llama4TextExperts"


def class_name(value: object) -> str:
    """Module and name of the class of a value; a subclass has another."""
    cls = type(value)
    return f"{cls.__module__}.{cls.__qualname__}"
