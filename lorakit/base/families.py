"""Facts about transformers' model families that their configs do not tell.

A family that is not named here gets the default row. A row is added where a test shows that the
default is wrong; `tests/base/test_families.py` runs the laws over every family it can build.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from lorakit.base import attention
from lorakit.errors import ModelError


@dataclass(frozen=True)
class FamilyFacts:
    """One row.

    Attributes:
        attention: the attention implementation to load with; None: ours where the family can, else
            eager.
        backbone: path of the backbone, where `base_model` is not it.
        no_packing: why examples may not share a row; None when they may.
        no_cache: why text is generated without transformers' cache, every token by a whole forward
            pass; None when the cache gives what a whole forward pass gives.
        logits_scale: what the head's output is multiplied by, from the text config.
        softcap: config field of the cap c in `c * tanh(logits / c)`.
        attention_calls: how often a layer attends with all of its heads.
        refused: why the family is not supported at all; None when it is.
    """

    attention: str | None = None
    backbone: str | None = None
    no_packing: str | None = None
    no_cache: str | None = None
    logits_scale: Callable[[PreTrainedConfig], float] | None = None
    softcap: str | None = None
    attention_calls: int = 1
    refused: str | None = None


# {model_type: layer names}. Mamba mixers of these families multiply with the weights of the layers
# themselves: PEFT 0.21 refuses out_proj there and silently ignores an adapter of dt_proj, and the
# packed layers of bitsandbytes fail.
READ_DIRECTLY = {
    "falcon_h1": ("out_proj",),
    "falcon_mamba": ("dt_proj", "out_proj"),
    "jamba": ("dt_proj",),
    "mamba": ("dt_proj", "out_proj"),
    "mamba2": ("out_proj",),
    "nemotron_h": ("out_proj",),
}

RECURRENT = "its recurrent or convolutional layers carry state from one example into the next"
OWN_ATTENTION = "its attention code does not know about packing"
POSITION_BIAS = "its attention adds a position bias over the whole row"
CHUNKED = "its attention is cut into chunks that start with the row"
HIDDEN_WINDOW = "its attention code does not pass its sliding window on"
BIDIRECTIONAL = "its attention looks at later tokens too (use_bidirectional_attention)"
INEXACT_CACHE = "transformers 5.23 computes something else with its cache"
ONE_ROW_CACHE = "transformers 5.23 mixes the rows of a batch in its cache"
UNSHOWN = "no test has shown that this family keeps packed examples apart"

ENCODER = "it is an encoder, whose causal head is not used on its own"
ENCODER_DECODER = "it is the decoder of an encoder-decoder model"
PICTURES_OR_SOUND = "it is a model of pictures or sound with a language model inside"
UNUSUAL_INPUT = "it does not take token ids alone"

REFUSED = {
    ENCODER: (
        "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert "
        "modernbert-decoder reformer rembert roberta roberta-prelayernorm roc_bert roformer xlm "
        "xlm-roberta xlm-roberta-xl xlnet xmod"
    ),
    ENCODER_DECODER: (
        "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart "
        "prophetnet trocr whisper"
    ),
    PICTURES_OR_SOUND: (
        "emu3 fuyu gemma4_assistant gemma4_unified_assistant git got_ocr2 mllama moshi "
        "moss_transcribe_diarize musicgen musicgen_melody phi4_multimodal"
    ),
    UNUSUAL_INPUT: "blt cpmant",
}

# Families that share a row: (their names, the row).
ROWS: list[tuple[str, FamilyFacts]] = [
    # Nothing about these differs from other decoders, which the laws show for each of them.
    (
        "afmoe apertus arcee aria_text axk1 biogpt bitnet cwm deepseek_v2 deepseek_v3 "
        "dots1 ernie4_5 ernie4_5_moe exaone4 exaone_moe flex_olmo flint gemma glm glm4 glm4_moe "
        "glm4_moe_lite gpt2 gpt_bigcode gpt_neox gpt_oss helium hunyuan_v1_dense hunyuan_v1_moe "
        "hy_v3 internlm3 jais2 jetmoe laguna llama mellum mimo_v2_flash minimax_m2 ministral "
        "ministral3 mistral mixtral olmo olmo2 olmo3 olmoe opt persimmon phi phi3 qwen2 qwen2_moe "
        "qwen3 qwen3_moe seed_oss smollm3 solar_open starcoder2 youtu",
        FamilyFacts(),
    ),
    (
        "beam gemma2 gemma3_text gemma3n_text gemma4_text gemma4_unified_text nanochat vaultgemma",
        FamilyFacts(softcap="final_logit_softcapping"),
    ),
    (
        "bamba falcon_mamba jamba lfm2 lfm2_moe mamba mamba2 nemotron_h olmo_hybrid "
        "qwen3_5_moe_text qwen3_5_text qwen3_next",
        FamilyFacts(no_packing=RECURRENT),
    ),
    ("minimax", FamilyFacts(no_packing=RECURRENT, no_cache=INEXACT_CACHE)),
    ("rwkv", FamilyFacts(no_packing=RECURRENT, no_cache=ONE_ROW_CACHE)),
    (
        "codegen gpt_neo gptj nemotron stablelm xglm",
        FamilyFacts(no_packing=OWN_ATTENTION),
    ),
    (
        "cohere cohere2 cohere2_moe",
        FamilyFacts(logits_scale=lambda config: config.logit_scale),
    ),
    (
        "granite granite_swa granitemoe granitemoe_swa granitemoeshared",
        FamilyFacts(logits_scale=lambda config: 1 / config.logits_scaling),
    ),
    *((names, FamilyFacts(refused=reason)) for reason, names in REFUSED.items()),
    ("bloom", FamilyFacts(no_packing=POSITION_BIAS)),
    ("diffllama", FamilyFacts(attention_calls=2)),  # once for each half of the values
    ("falcon", FamilyFacts(attention="sdpa", no_packing=OWN_ATTENTION)),
    (
        "falcon_h1",
        FamilyFacts(no_packing=RECURRENT, logits_scale=lambda config: config.lm_head_multiplier),
    ),
    (
        "granitemoehybrid",
        FamilyFacts(no_packing=RECURRENT, logits_scale=lambda config: 1 / config.logits_scaling),
    ),
    ("hyperclovax", FamilyFacts(logits_scale=lambda config: config.logits_scaling)),
    (
        "minicpm3",
        FamilyFacts(logits_scale=lambda config: config.dim_model_base / config.hidden_size),
    ),
    ("llama4_text", FamilyFacts(backbone="model", no_packing=CHUNKED)),
    ("phimoe", FamilyFacts(no_packing=HIDDEN_WINDOW)),
    ("recurrent_gemma", FamilyFacts(no_packing=RECURRENT, softcap="logits_soft_cap")),
]

FAMILIES = {name: row for names, row in ROWS for name in names.split()}

# A family without a row: examples one per row, and its head is checked when it is loaded.
DEFAULT = FamilyFacts(no_packing=UNSHOWN)


def family(model_type: str) -> FamilyFacts:
    """The row of `model_type`.

    Raises:
        ModelError: not a causal language model of the installed transformers, or refused by its
            row.
    """
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(_why_no_decoder(model_type))
    facts = FAMILIES.get(model_type, DEFAULT)
    if facts.refused is not None:
        raise ModelError(
            f"model_type {model_type!r} is not supported: {facts.refused}; possible: decoders of "
            "text such as llama, qwen3, gemma3_text. Choose another base.model."
        )
    return facts


def _why_no_decoder(model_type: str) -> str:
    """What to tell of a model that transformers has no causal language model for."""
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        both = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys() & MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        trained = sorted(name for name in both if FAMILIES.get(name, DEFAULT).refused is None)
        return (
            f"model_type {model_type!r} is not supported: it is a model of pictures and text that "
            "transformers does not offer for text alone; possible: those that it does, "
            f"{', '.join(trained)}, and decoders of text such as llama, qwen3, gemma3_text. Choose "
            "another base.model."
        )
    return (
        f"model_type {model_type!r} is not a causal language model of the installed "
        f"transformers; possible: {len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)} types such as "
        "llama, qwen3, gemma3_text. Choose another base.model, or upgrade transformers if the "
        "model is newer."
    )


def why_not_packed(config: PreTrainedConfig) -> str | None:
    """Why examples may not share a row in a model of this config; None when they may."""
    # transformers' Gemmas have it; no other config names the direction of its attention.
    if getattr(config.get_text_config(), "use_bidirectional_attention", None) in (True, "all"):
        return BIDIRECTIONAL
    return family_of(config).no_packing


def attention_of(config: PreTrainedConfig) -> str:
    """The attention implementation that a model of this config is loaded with."""
    chosen = family_of(config).attention
    if chosen is not None:
        return chosen
    model_class = model_class_of(config)
    # Families that write their attention out add the mask to the scores: they need eager's, because
    # the boolean mask of the others would silently add ones.
    if model_class._supports_sdpa or model_class._supports_attention_backend:
        return attention.NAME
    return "eager"


def model_class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of transformers that a causal language model of this config is built from."""
    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    # A few configs name several classes; the first is the one for text.
    return cast(type[PreTrainedModel], found[0] if isinstance(found, tuple) else found)


def family_of(config: PreTrainedConfig) -> FamilyFacts:
    """The row for a loaded config."""
    return family(config.model_type)
