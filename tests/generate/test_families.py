"""The sampler's laws over every family of `tests/families.py`, storage and adapter."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.attached import adapter_disabled
from lorakit.base.load import load_base
from lorakit.generate import SamplingSettings, generate
from lorakit.generate.decoders import RowDecoder, SlotDecoder, decoder_for
from lorakit.recipe import LoraConfig
from tests import families, tiny
from tests.adapters.bases import perturb
from tests.generate.law import (
    AGAIN,
    AT_A_TIME,
    NEW_TOKENS,
    fresh_logprobs,
    largest_difference,
    prompts,
)
from tests.tolerances import LOGPROBS_FLOAT32

MODEL_TYPES = sorted(families.FAMILIES)
TOKENIZER = tiny.tokenizer()
GREEDY = SamplingSettings(temperature=0, ignore_eos=True)
SAMPLED = SamplingSettings(temperature=0.9, top_p=0.95, top_k=100, seed=5, ignore_eos=True)

# transformers' Bamba computes in two ways that differ by so much, with its cache and without.
LESS_EXACT = {"bamba": 5e-4}


def check_law(
    model: PreTrainedModel, settings: SamplingSettings, tolerance: float = LOGPROBS_FLOAT32
) -> None:
    """Log-probabilities are a fresh forward pass's; greedy tokens are its most probable ones."""
    asked = [*prompts(), *(prompts()[place] for place in AGAIN)]
    limits = [*NEW_TOKENS, *range(2, 2 + len(AGAIN))]
    completions = generate(
        model, TOKENIZER, asked, settings, max_new_tokens=limits, max_batch=AT_A_TIME
    )
    assert [len(one.token_ids) for one in completions] == limits
    modes = {module: module.training for module in model.modules()}
    model.eval()
    assert largest_difference(model, asked, completions) < tolerance
    if settings.temperature == 0:
        for prompt, completion in zip(asked, completions, strict=True):
            best = fresh_logprobs(model, prompt, completion.token_ids).max(dim=-1).values
            assert (best - torch.from_numpy(completion.logprobs)).abs().max() < tolerance
    for module, training in modes.items():
        module.training = training


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_logprobs_are_those_of_a_fresh_forward_pass(
    model_type: str, settings: SamplingSettings, family_model
) -> None:
    tolerance = LESS_EXACT.get(model_type, LOGPROBS_FLOAT32)
    check_law(family_model(model_type), settings, tolerance)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_with_an_adapter_on_nf4_in_training_mode(model_type: str, family_folder) -> None:
    model, _ = load_base(
        family_folder(model_type), quantization="nf4", dtype=torch.float32, device="cpu"
    )
    # Experts have plain LoRA without dropout.
    with_experts = model_type in families.WITH_EXPERTS
    options = {} if with_experts else {"use_dora": True, "lora_dropout": 0.5}
    attach_adapter(model, LoraConfig(r=4, **options))
    perturb(model)
    model.train()
    tolerance = LESS_EXACT.get(model_type, LOGPROBS_FLOAT32)
    check_law(model, GREEDY, tolerance)
    assert all(module.training for module in model.modules())
    with adapter_disabled(model):
        check_law(model, SAMPLED, tolerance)


def test_families_that_can_be_packed_are() -> None:
    assert isinstance(decoder_for(families.build("llama"), 1), SlotDecoder)
    assert isinstance(decoder_for(families.build("mamba"), 1), RowDecoder)
    assert isinstance(decoder_for(tiny.model("llama"), 1), RowDecoder)


def test_models_with_another_attention_generate_too() -> None:
    check_law(tiny.model("llama"), SAMPLED)


@pytest.mark.parametrize("model_type", families.COMPOSITES)
def test_models_of_pictures_and_text_generate_text(model_type: str, tmp_path) -> None:
    AutoModelForImageTextToText.from_config(families.composite(model_type)).eval().save_pretrained(
        tmp_path
    )
    tiny.tokenizer().save_pretrained(tmp_path)
    model, _ = load_base(tmp_path, dtype=torch.float32, device="cpu")
    check_law(model, GREEDY)
