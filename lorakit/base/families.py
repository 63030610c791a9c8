"""Facts about transformers' model families that their configs do not tell.

A family that is not named here gets the default row. A row is added where a test shows that the
default is wrong; `tests/base/test_families.py` runs the laws over every family it can build.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from lorakit.base import attention
from lorakit.errors import ModelError


@dataclass(frozen=True)
class FamilyFacts:
    """One row.

    Attributes:
        attention: the attention implementation to load with; None: ours where the family can, else eager.
        no_packing: why examples may not share a row; None when they may.
        logits_divisor: config field by which the head's output is divided.
        logits_multiplier: config field by which the head's output is multiplied.
        softcap: config field of the cap c in `c * tanh(logits / c)`.
        refused: why the family is not supported at all; None when it is.
    """

    attention: str | None = None
    no_packing: str | None = None
    logits_divisor: str | None = None
    logits_multiplier: str | None = None
    softcap: str | None = None
    refused: str | None = None


RECURRENT = "its recurrent layers carry state from one example into the next"

OWN_ATTENTION = "its attention does not know about packing"

FAMILIES: dict[str, FamilyFacts] = {
    "cohere": FamilyFacts(logits_multiplier="logit_scale"),
    "cohere2": FamilyFacts(logits_multiplier="logit_scale"),
    "falcon": FamilyFacts(attention="sdpa", no_packing=OWN_ATTENTION),
    "falcon_h1": FamilyFacts(no_packing=RECURRENT, logits_multiplier="lm_head_multiplier"),
    "gemma2": FamilyFacts(softcap="final_logit_softcapping"),
    "gemma3_text": FamilyFacts(softcap="final_logit_softcapping"),
    "granite": FamilyFacts(logits_divisor="logits_scaling"),
    "granitemoe": FamilyFacts(logits_divisor="logits_scaling"),
    "mamba": FamilyFacts(no_packing=RECURRENT),
    "mamba2": FamilyFacts(no_packing=RECURRENT),
}

DEFAULT = FamilyFacts()


def family(model_type: str) -> FamilyFacts:
    """The row of `model_type`.

    Raises:
        ModelError: not a causal language model of the installed transformers, or refused by its row.
    """
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"model_type {model_type!r} is not a causal language model of the installed transformers; "
            f"possible: {len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)} types such as llama, qwen3, gemma3_text. "
            "Choose another base.model, or upgrade transformers if the model is newer."
        )
    facts = FAMILIES.get(model_type, DEFAULT)
    if facts.refused is not None:
        raise ModelError(
            f"model_type {model_type!r} is not supported: {facts.refused}. Choose another base.model."
        )
    return facts


def attention_of(config: PreTrainedConfig) -> str:
    """The attention implementation that a model of this config is loaded with."""
    chosen = family_of(config).attention
    if chosen is not None:
        return chosen
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    # Families that write their attention out add the mask to the scores: they need eager's, because
    # the boolean mask of the others would silently add ones.
    if model_class._supports_sdpa or model_class._supports_attention_backend:
        return attention.NAME
    return "eager"


def family_of(config: PreTrainedConfig) -> FamilyFacts:
    """The row for a loaded config."""
    return family(config.model_type)
