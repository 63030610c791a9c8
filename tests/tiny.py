"""Tiny models and tokenizers for tests: real architectures, random weights, real files."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TEXT = (
    "The patient was seen in clinic today. Blood pressure 120/80 mmHg, pulse 72 per minute. "
    "What is asthma? Asthma is a chronic disease of the airways that makes breathing difficult. "
    "Take one tablet twice daily with food. Call us if you have a fever, a rash or chest pain. "
)


def tokenizer(
    *, chat_template: str | None = CHATML, vocab_size: int = 384
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with ChatML tokens, an end token and a distinct pad token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>"
    )
    fast.chat_template = chat_template
    return fast


def config(model_type: str = "llama", **overrides: object):
    """A tiny config of `model_type`: 2 layers, hidden 32, grouped-query attention."""
    values: dict[str, object] = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 4,
    }
    return AutoConfig.for_model(model_type, **(values | overrides))


def model(model_type: str = "llama", *, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A tiny random float32 model as transformers makes it (no lorakit code involved)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config(model_type, **overrides)).eval()


def folder(path: Path, model_type: str = "llama", *, seed: int = 0, **overrides: object) -> Path:
    """A model folder on disk: config, safetensors, tokenizer."""
    model(model_type, seed=seed, **overrides).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path
