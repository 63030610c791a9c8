"""Must-show 1: configs drawn over the options: PEFT -> ours -> PEFT -> ours, dense and NF4.

Equal tensors, and logits and gradients to 1e-5 in float32; PEFT's model stands on the very weights,
for NF4 on the very bytes in bitsandbytes' own layers.
"""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.load import load_base
from tests import families, tiny
from tests.adapters.bases import logits
from tests.adapters.option_sets import FAMILIES, OptionSet, draw
from tests.adapters.peers import (
    assert_gradients_equal,
    load_in_peft,
    make_in_peft,
    same_weights,
    save_from_peft,
)
from tests.tolerances import LOGITS_FLOAT32, relative_error

NUM_SETS, NUM_FAST = 48, 8
MOVING = ("pissa", "olora")  # PEFT takes nothing out of a quantized base
CASES = [
    pytest.param(seed, storage, marks=[] if seed < NUM_FAST else pytest.mark.slow)
    for seed in range(NUM_SETS)
    for storage in ("none", "nf4")
    if storage == "none" or draw(seed).options["init_lora_weights"] not in MOVING
]


@pytest.fixture(scope="module")
def base_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """{(family, tied): a tiny model folder}"""
    root = tmp_path_factory.mktemp("sets")
    found = {}
    for family in FAMILIES:
        for tied in (False, True):
            path = root / f"{family}-{tied}"
            # Embeddings as small as a random model's would make norms amplify every rounding.
            overrides = {"tie_word_embeddings": tied, "initializer_range": 0.1}
            if family == "gemma3_text":
                overrides |= {"head_dim": 8, "sliding_window": 8}
            # Rows of whole blocks: see `bitsandbytes_peer.load` on others.
            found[family, tied] = tiny.folder(path, family, hidden_size=64, **overrides)
    return found


@pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA with rank_pattern")
@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")
@pytest.mark.filterwarnings("ignore:ensure_weight_tying=True but the model does not have tied")
@pytest.mark.parametrize(("seed", "storage"), CASES)
def test_a_drawn_config_goes_to_peft_and_back(
    base_folders: dict[tuple[str, bool], Path], tmp_path: Path, seed: int, storage: str
) -> None:
    drawn = draw(seed)
    moved = drawn.options["init_lora_weights"] in MOVING
    folder = base_folders[drawn.family, drawn.tied]

    def fresh() -> PreTrainedModel:
        return load_base(folder, quantization=storage, dtype=torch.float32, device="cpu")[0]

    theirs = make_in_peft(same_weights(fresh(), folder), _config(drawn), size=0.02)
    save_from_peft(theirs, tmp_path / "theirs")
    ours = fresh()
    adapter = load_adapter(ours, tmp_path / "theirs")
    assert relative_error(logits(ours), logits(theirs)) <= LOGITS_FLOAT32
    assert_gradients_equal(ours, adapter, theirs)

    save_adapter(ours, tmp_path / "ours")
    if not moved:  # saved plain, for the base as it was
        _compare_tensors(tmp_path / "theirs", tmp_path / "ours")
    back = load_in_peft(same_weights(fresh(), folder), tmp_path / "ours")
    assert relative_error(logits(back), logits(theirs)) <= LOGITS_FLOAT32
    save_from_peft(back, tmp_path / "back")
    again = fresh()
    load_adapter(again, tmp_path / "back")
    if moved:
        assert relative_error(logits(again), logits(ours)) <= LOGITS_FLOAT32
    else:
        assert torch.equal(logits(again), logits(ours))


def _config(drawn: OptionSet) -> peft.LoraConfig:
    return peft.LoraConfig(task_type="CAUSAL_LM", **drawn.options)


def _compare_tensors(one: Path, two: Path) -> None:
    first, second = (load_file(path / "adapter_model.safetensors") for path in (one, two))
    # PEFT adds embeddings that an adapter changes, and some biases twice; ours stays lean.
    more = (".base_layer.weight", ".modules_to_save.bias", ".original_module.bias")
    copies = {name for name in first if name.endswith(more)}
    assert first.keys() - copies == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_the_drawn_configs_cover_every_option() -> None:
    drawn = [draw(seed) for seed in range(NUM_FAST)]
    for field in (
        "exclude_modules",
        "layers_to_transform",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "trainable_token_indices",
        "ensure_weight_tying",
    ):
        assert any(one.options.get(field) is not None for one in drawn), field
    assert {one.options["bias"] for one in drawn} == {"none", "lora_only", "all"}
    assert {one.options["init_lora_weights"] for one in drawn} >= {True, "pissa", "olora"}
    assert any("lm_head" in one.options["target_modules"] for one in drawn)
    assert any({"layers_to_transform", "exclude_modules"} <= one.options.keys() for one in drawn)
    assert {one.tied for one in drawn} == {False, True}
    for flag in ("use_dora", "use_rslora"):
        assert {one.options[flag] for one in drawn} == {False, True}
    assert families.FAMILIES.keys() >= set(FAMILIES)
