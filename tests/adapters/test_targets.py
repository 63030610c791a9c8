"""Which modules an adapter config names, and what is said when it names none."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.name_endings import minimal_endings, portable_pattern
from lorakit.adapters.ranks import RSLORA_ALPHA, module_rank_and_alpha, scaling_of
from lorakit.adapters.save import save_adapter
from lorakit.adapters.targets import find_targets
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from tests import families, tiny
from tests.adapters.peers import load_in_peft

LEAVES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def adapted(**config: object) -> set[str]:
    return set(find_targets(tiny.model("llama"), LoraConfig(**config)).adapted)


def leaves(names: set[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize("word", ["all-linear", "All-Linear"])
def test_all_linear_leaves_out_the_head(word: str) -> None:
    assert leaves(adapted(target_modules=word)) == LEAVES
    tied = find_targets(tiny.model("llama", tie_word_embeddings=True), LoraConfig())
    assert leaves(set(tied.adapted)) == LEAVES and tied.left_out["lm_head"] == "output head"


def test_lists_match_names_and_endings() -> None:
    assert leaves(adapted(target_modules=["q_proj", "lm_head"])) == {"q_proj", "lm_head"}
    full = "model.layers.1.mlp.up_proj"
    assert adapted(target_modules=[full]) == {full}
    assert adapted(target_modules=["1.mlp.up_proj"]) == {full}


def test_a_string_is_a_regex_over_the_whole_name() -> None:
    assert adapted(target_modules=r".*layers\.0.*(q|v)_proj") == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
    }
    with pytest.raises(AdapterError, match="match no module"):
        adapted(target_modules="q_proj")


def test_modules_can_be_left_out() -> None:
    assert leaves(adapted(exclude_modules=["q_proj", "mlp.up_proj"])) == LEAVES - {
        "q_proj",
        "up_proj",
    }
    rest = adapted(exclude_modules=r".*\.layers\.0\..*")
    assert {name.split(".")[2] for name in rest} == {"1"}
    found = find_targets(tiny.model("llama"), LoraConfig(exclude_modules=["q_proj"]))
    assert found.left_out["model.layers.0.self_attn.q_proj"] == "exclude_modules"


def test_reasons_are_told_for_what_is_not_named() -> None:
    found = find_targets(tiny.model("llama"), LoraConfig(target_modules=["q_proj"]))
    assert found.left_out["model.layers.0.mlp.up_proj"] == "not in target_modules"
    assert found.left_out["model.embed_tokens.weight"].startswith("a parameter (400, 32)")


BAD_TARGETS = {
    "a typo": ({"target_modules": ["q_prj"]}, r"'q_prj'\] match no module.*q_proj \(2\).*'q_proj'"),
    "one of two": ({"target_modules": ["q_proj", "k_prj"]}, r"\['k_prj'\] match no module"),
    "an empty list": ({"target_modules": []}, "match no module"),
    "a path": ({"target_modules": ["../../etc"]}, "match no module"),
    "a regex of nothing": ({"target_modules": r".*\.nothing"}, "match no module"),
    "no regex": ({"target_modules": "(q_proj"}, "no regular expression"),
    "a long regex": ({"target_modules": "a" * 20_000}, "20000 characters"),
    "the whole block": (
        {"target_modules": ["mlp"]},
        "a LlamaMLP, no plain linear layer or embedding",
    ),
    "everything excluded": (
        {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]},
        "leave nothing to adapt",
    ),
    "nothing excluded": ({"exclude_modules": ["q_prj"]}, "exclude_modules.*match no module"),
    "no regex excluded": ({"exclude_modules": "[a"}, "exclude_modules '\\[a' is no regular"),
    "trained in full": (
        {"target_modules": ["q_proj"], "modules_to_save": ["self_attn"]},
        "leave nothing to adapt",
    ),
    "nothing to save": ({"modules_to_save": ["lm_haed"]}, "matches no module.*'lm_head'"),
    "ambiguous to save": (
        {"modules_to_save": ["norm"]},
        "ambiguous.*model.norm.*PEFT would also take .*input_layernorm",
    ),
    "nested to save": ({"modules_to_save": ["mlp", "up_proj"]}, "and a module around it"),
    "an unmatched rank": ({"rank_pattern": {"q_prj": 4}}, "rank_pattern 'q_prj' matches none"),
    "an unmatched alpha": ({"alpha_pattern": {"lm_head": 4}}, "alpha_pattern 'lm_head' matches"),
    "an unknown kind": ({"kind": "adalora"}, "kinds are dora, lora"),
    "an unknown init": ({"init_lora_weights": "corda"}, "'corda' is not built; possible are"),
    "a layer that is not there": (
        {"target_modules": ["q_proj"], "layers_to_transform": [1, 7]},
        r"layers_to_transform \[7\] are not among the layers that have targets: 0 to 1",
    ),
    "layers of no list": (
        {"layers_to_transform": 0, "layers_pattern": "blocks"},
        r"layers_to_transform \[0\] .*of \['blocks'\] that have targets: none",
    ),
    "rows of nothing": ({"trainable_token_indices": {"embed": [1]}}, "no such module; embeddings"),
    "no rows": ({"trainable_token_indices": []}, "name no row of model.embed_tokens"),
    "rows beyond the table": (
        {"trainable_token_indices": [3, 400]},
        r"\[400\] are no rows of model.embed_tokens, which has 400.*add_tokens",
    ),
    "a row twice": ({"trainable_token_indices": [3, 5, 3]}, "give 3 twice"),
    "rows of a linear layer": (
        {"trainable_token_indices": {"q_proj": [1]}},
        "a Linear, neither an embedding nor the output head",
    ),
    "rows of a module in full": (
        {"trainable_token_indices": [1], "modules_to_save": ["embed_tokens"]},
        "named by modules_to_save and by trainable_token_indices",
    ),
    "rows of an adapted module": (
        {"trainable_token_indices": [1], "target_modules": ["embed_tokens"]},
        "named by target_modules and by trainable_token_indices",
    ),
    "a tie that is not there": (
        {"trainable_token_indices": [1], "ensure_weight_tying": True},
        "ensure_weight_tying cannot take effect",
    ),
    "no biases": ({"bias": "all"}, "trains nothing"),
    "a path to go on from": ({"path": "runs/x"}, "load_adapter"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(case: str) -> None:
    config, expected = BAD_TARGETS[case]
    model = tiny.model("llama")
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    with pytest.raises(AdapterError, match=f"(?s){expected}"):
        attach_adapter(model, LoraConfig(**config))
    assert before == [(name, p.requires_grad) for name, p in model.named_parameters()]
    assert all(type(m).__module__.split(".")[0] != "lorakit" for m in model.modules())


def test_a_regex_that_explodes_is_stopped() -> None:
    started = time.monotonic()
    with pytest.raises(AdapterError, match="takes longer than 1 s"):
        adapted(target_modules=r"(.|..|...)+[0-9]$")
    assert time.monotonic() - started < 10


def test_patterns_give_the_first_match_in_written_order() -> None:
    names = ["model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.0.up_proj"]
    config = LoraConfig(
        r=8,
        lora_alpha=5,
        rank_pattern={r"layers\.0\..*": 2, "q_proj": 4},
        alpha_pattern={"up_proj": 7},
    )
    assert module_rank_and_alpha(names, config) == {
        names[0]: (2, 5.0),
        names[1]: (4, 5.0),
        names[2]: (2, 7.0),
    }


def test_alpha_and_scaling_follow_the_convention() -> None:
    assert module_rank_and_alpha(["a"], LoraConfig(r=8)) == {"a": (8, 16.0)}
    # rsLoRA is one alpha over all ranks: an alpha that grows with them would undo it.
    for r in (1, 16, 2048):
        config = LoraConfig(r=r, use_rslora=True)
        assert module_rank_and_alpha(["a"], config) == {"a": (r, RSLORA_ALPHA)}
    assert scaling_of(16, RSLORA_ALPHA, use_rslora=True) == 2  # LoRA's default, at the default rank
    assert scaling_of(16, 32, use_rslora=False) == 2
    assert scaling_of(16, 32, use_rslora=True) == 8


def test_without_an_alpha_every_module_has_that_of_its_own_rank() -> None:
    config = LoraConfig(r=16, rank_pattern={"b": 4}, alpha_pattern={"c": 3})
    assert module_rank_and_alpha(["a", "b", "c"], config) == {
        "a": (16, 32.0),
        "b": (4, 8.0),
        "c": (16, 3.0),
    }


def test_endings_are_few_and_exact() -> None:
    names = [f"model.layers.{i}.self_attn.{leaf}" for i in range(3) for leaf in ("q", "v")]
    others = ["model", "model.layers.0.mlp", "model.layers.0.mlp.v"]
    endings = minimal_endings(names, others)
    assert endings == ["q", "self_attn.v"]
    assert minimal_endings(names[:1], names[1:]) == ["0.self_attn.q"]
    with pytest.raises(AdapterError, match="cannot tell them apart"):
        minimal_endings(["q"], ["model.q"])


def test_patterns_that_overlap_are_written_out() -> None:
    wanted = {"a.q": 4.0, "b.q": 2.0, "b.v": 8.0}
    plain = portable_pattern(wanted, {"a.q": 4, "b.q": 2}, 8, "rank_pattern")
    assert plain == {"a.q": 4, "b.q": 2}
    overlapping = portable_pattern(wanted, {"b.q": 2, r".*\.q": 4}, 8, "rank_pattern")
    assert overlapping == {"a.q": 4, "b.q": 2}


def test_a_module_at_two_places_is_adapted_at_both() -> None:
    model = tiny.model("llama")
    layers = model.model.layers
    layers[1].mlp.up_proj = layers[0].mlp.up_proj
    attach_adapter(model, LoraConfig(r=4))
    assert layers[1].mlp.up_proj is layers[0].mlp.up_proj
    assert not isinstance(layers[1].mlp.up_proj, nn.Linear)


def test_layers_whose_weight_is_read_directly_are_left_out() -> None:
    model = families.build("mamba")
    found = find_targets(model, LoraConfig())
    assert leaves(set(found.adapted)) == {"in_proj", "x_proj"}
    assert found.left_out["backbone.layers.0.mixer.out_proj"].endswith("weight directly")
    with pytest.raises(AdapterError, match="multiplies with its weight directly"):
        find_targets(model, LoraConfig(target_modules=["out_proj"]))


@pytest.fixture
def picture_config() -> Gemma3Config:
    """Of a checkpoint for pictures and text, whose towers name their layers alike."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = sizes | {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": 300}
    return Gemma3Config(
        text_config=text, vision_config=sizes | {"image_size": 28, "patch_size": 14}
    )


def test_all_linear_is_of_the_part_that_text_passes(
    picture_config: Gemma3Config, tmp_path: Path
) -> None:
    def model() -> Gemma3ForConditionalGeneration:
        torch.manual_seed(0)
        return Gemma3ForConditionalGeneration(picture_config)

    ours = model()
    found = find_targets(ours, LoraConfig(r=4))
    attach_adapter(ours, LoraConfig(r=4))
    assert leaves(set(found.adapted)) == LEAVES
    assert all(name.startswith("model.language_model.") for name in found.adapted)
    seen = [reason for name, reason in found.left_out.items() if name.startswith("model.vision")]
    assert any("text does not pass it" in reason for reason in seen)
    save_adapter(ours, tmp_path)
    theirs = load_in_peft(model(), tmp_path)
    wrapped = {n for n, m in theirs.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    assert wrapped == set(found.adapted)
    # Who names them gets them.
    named = find_targets(model(), LoraConfig(target_modules=r".*vision_tower.*\.fc1"))
    assert leaves(set(named.adapted)) == {"fc1"}
