"""The length of examples up to which a model computes each of them by itself."""

from __future__ import annotations

from transformers import PreTrainedConfig

# Rotary embeddings whose frequencies depend on the longest row of a forward pass.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def length_limit(config: PreTrainedConfig) -> int | None:
    """The most tokens of an example up to which a token's position alone decides its rotation.

    Above it, `dynamic` and `longrope` rotary embeddings choose frequencies by the longest row of
    the forward pass: what one example computes would depend on the others in its micro-batch.

    Returns:
        None for embeddings that do not look at the length.
    """
    text = config.get_text_config()
    # Which attributes a config has differs by model_type; transformers offers no other question.
    parameters = getattr(text, "rope_parameters", None)
    context = getattr(text, "max_position_embeddings", None)
    if not isinstance(parameters, dict):
        return None
    # One set of parameters, or one for each type of layer.
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    limits = [
        one.get("original_max_position_embeddings") or context
        for one in (parameters, *nested)
        if one.get("rope_type") in LENGTH_DEPENDENT_ROPE
    ]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)
