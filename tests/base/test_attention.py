"""Models loaded with our attention generate, pad and pack as transformers' own do."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorakit.base import attention
from tests import families

MODEL_TYPES = [
    name
    for name in sorted(families.FAMILIES)
    if families.config(name)._attn_implementation == attention.NAME
]
# Their eager attention computes what no other implementation of transformers does.
EAGER = {
    "gemma2",
    "gpt_oss",
    "vaultgemma",
    "granite_swa",
    "granitemoe_swa",
    "mimo_v2_flash",
    "flint",
}


def theirs(model_type: str, ours: PreTrainedModel) -> PreTrainedModel:
    """The same weights with the attention that transformers would choose."""
    config = families.config(model_type)
    other = "eager" if model_type in EAGER else "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=other).eval()
    model.load_state_dict(ours.state_dict())
    return model


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_logits_equal_transformers_own_attention(model_type: str, family_model) -> None:
    ours = family_model(model_type)
    model = theirs(model_type, ours)
    ids = torch.randint(5, 390, (2, 21))
    assert torch.allclose(ours(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_generation_with_cache_and_left_padding(model_type: str, family_model) -> None:
    model = family_model(model_type)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    rows = [torch.randint(5, 390, (length,)) for length in (3, 11)]
    alone = [
        model.generate(row[None], attention_mask=torch.ones_like(row[None]), **options)[
            0, len(row) :
        ]
        for row in rows
    ]
    ids = torch.zeros(2, 11, dtype=torch.long)
    mask = torch.zeros(2, 11, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, -len(row) :] = row
        mask[index, -len(row) :] = 1
    together = model.generate(ids, attention_mask=mask, **options)[:, 11:]
    assert together.tolist() == [tokens.tolist() for tokens in alone]


def test_registering_twice_is_harmless() -> None:
    attention.register()
    attention.register()
