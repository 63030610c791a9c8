"""The shipped model: small enough, complete, and it answers and stops."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorakit.builtin import model_folder

FILES = (
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_log.jsonl",
)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(model_folder()).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(model_folder())


def test_the_folder_is_complete_and_under_20_megabytes() -> None:
    found = {path.name: path.stat().st_size for path in model_folder().iterdir()}
    assert set(FILES) <= set(found)
    assert sum(found.values()) < 20_000_000


def test_the_model_has_three_to_four_million_parameters_and_a_tied_head(model) -> None:
    assert 3_000_000 < sum(weight.numel() for weight in model.parameters()) < 4_000_000
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.vocab_size == 4096
    assert model.config.max_position_embeddings == 1024
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_ids_agree_between_model_and_tokenizer(model, tokenizer) -> None:
    assert len(tokenizer) == model.config.vocab_size
    for settings in (model.config, model.generation_config):
        assert settings.eos_token_id == tokenizer.eos_token_id
        assert settings.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("question", ["What is asthma?", "Hello!", "What is 2 + 3?"])
def test_it_answers_and_stops(question: str, model, tokenizer) -> None:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    made = model.generate(**ids, max_new_tokens=200, do_sample=False)
    answer = made[0, ids["input_ids"].shape[1] :].tolist()
    assert answer[-1] == tokenizer.eos_token_id
    assert len(tokenizer.decode(answer, skip_special_tokens=True).strip()) > 0


def test_it_predicts_plain_medical_english(model, tokenizer) -> None:
    text = "Asthma is a disease of the lungs that makes it hard to breathe."
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    # A uniform guess is 8.3; the card's losses on unseen medical text are far below this bound.
    assert loss < 5.0


def test_the_log_says_how_it_was_trained() -> None:
    records = [
        json.loads(line)
        for line in (model_folder() / "training_log.jsonl").read_text().splitlines()
    ]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0]
    assert max(record.get("tokens", 0) for record in records) < 15_000_000
