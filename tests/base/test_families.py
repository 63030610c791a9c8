"""The laws of the base, over every family of `tests/families.py`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from lorakit.base import packing
from lorakit.base.device import compute_device
from lorakit.base.families import FAMILIES as ROWS
from lorakit.base.families import family
from lorakit.base.frozen_experts import FrozenExperts
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.head import backbone_hidden, logits_fn
from lorakit.base.load import load_base
from lorakit.base.storages import quantizations, storage
from lorakit.data.examples import MicroBatch
from lorakit.data.length_limit import length_limit
from lorakit.errors import ModelError
from tests import families, tiny
from tests.tolerances import LOGITS_FLOAT32, relative_error

LENGTHS = (5, 21, 13)  # longer than the tiny configs' window of 8
MODEL_TYPES = sorted(families.FAMILIES)


def examples() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, 390, (length,), generator=generator) for length in LENGTHS]


def packed(rows: list[torch.Tensor]) -> MicroBatch:
    starts = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0).int()
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
    return micro_batch(torch.cat(rows)[None], positions, None, starts, rows)


def padded(rows: list[torch.Tensor]) -> MicroBatch:
    longest = max(map(len, rows))
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    positions = torch.arange(longest).expand(len(rows), longest)
    return micro_batch(input_ids, positions, mask, None, rows)


def micro_batch(
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    mask: torch.Tensor | None,
    starts: torch.Tensor | None,
    rows: list[torch.Tensor],
) -> MicroBatch:
    nothing = torch.zeros(0, dtype=torch.long)
    return MicroBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=mask,
        cu_seqlens=starts,
        lengths=tuple(map(len, rows)),
        max_seqlen=max(map(len, rows)),
        predictor_rows=nothing,
        targets=nothing,
        target_weights=nothing.float(),
        target_examples=nothing,
        example_ids=nothing,
    )


@torch.no_grad()
def hidden_per_example(
    model: PreTrainedModel, rows: list[torch.Tensor], *, pack: bool
) -> torch.Tensor:
    """(all tokens, D), padding left out, examples one after another."""
    if pack:
        return backbone_hidden(model, packed(rows))
    batch = padded(rows)
    hidden = backbone_hidden(model, batch).view(*batch.input_ids.shape, -1)
    return torch.cat([hidden[index, : len(row)] for index, row in enumerate(rows)])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_backbone_and_head_equal_the_forward_pass(model_type: str, family_model) -> None:
    model = family_model(model_type)
    row = examples()[1]
    hidden = backbone_hidden(model, padded([row]))
    assert relative_error(logits_fn(model)(hidden), model(row[None]).logits[0]) < LOGITS_FLOAT32


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_no_example_sees_another(model_type: str, family_model) -> None:
    model = family_model(model_type)
    rows = examples()
    alone = torch.cat([hidden_per_example(model, [row], pack=False) for row in rows])
    assert relative_error(hidden_per_example(model, rows, pack=False), alone) < LOGITS_FLOAT32
    if family(model_type).no_packing is None:
        assert relative_error(hidden_per_example(model, rows, pack=True), alone) < LOGITS_FLOAT32
    else:
        with pytest.raises(ModelError, match="packing: false"):
            hidden_per_example(model, rows, pack=True)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_saved_and_loaded_computes_the_same(model_type: str, family_model, family_folder) -> None:
    model = family_model(model_type)
    loaded, _ = load_base(family_folder(model_type), dtype=torch.float32, device="cpu")
    ids = examples()[1][None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


PACKED = sorted(set(quantizations()) - {"none"})
# Families and storages have nothing in common: each family has one, and the common one has all.
STORED = [(t, PACKED[i % len(PACKED)]) for i, t in enumerate(MODEL_TYPES)]
STORED += [("llama", name) for name in PACKED if ("llama", name) not in STORED]


@pytest.mark.parametrize(("model_type", "quantization"), STORED)
@torch.no_grad()
def test_packed_computes_with_the_rounded_weights(
    model_type: str, quantization: str, family_folder
) -> None:
    expected = families.build(model_type)
    targets = packing.packable(expected)
    pack = partial(storage(quantization).pack, block_size=64, double_quantization=True)
    for path, name in targets.items():
        parameter = expected.get_parameter(name)
        layer = packing.layer_at(expected, path)
        dense = pack(packing.storable_weight(layer).contiguous()).dequantize()
        parameter.data = dense.t().contiguous() if isinstance(layer, Conv1D) else dense
    loaded, _ = load_base(
        family_folder(model_type), quantization=quantization, dtype=torch.float32, device="cpu"
    )
    kinds = FrozenLinear | FrozenExperts
    frozen = [name for name, module in loaded.named_modules() if isinstance(module, kinds)]
    assert sorted(frozen) == sorted(targets) and targets
    ids = examples()[1][None]
    assert relative_error(loaded(ids).logits, expected(ids).logits) < LOGITS_FLOAT32


@torch.no_grad()
def test_layers_that_are_rescaled_in_place_are_packed_too(tmp_path: Path) -> None:
    """RWKV halves weights every six layers, which packed ones would not notice."""
    folder = families.folder(tmp_path, "rwkv", num_hidden_layers=8)
    config = json.loads((folder / "config.json").read_text()) | {"rescale_every": 6}
    (folder / "config.json").write_text(json.dumps(config))
    expected, _ = load_base(folder, dtype=torch.float32, device="cpu")
    original = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = examples()[1][None]
    assert original.config.rescale_every == 6
    assert relative_error(expected(ids).logits, original(ids).logits) < LOGITS_FLOAT32
    for quantization in PACKED:
        loaded, _ = load_base(folder, quantization=quantization, dtype=torch.float32, device="cpu")
        for name, module in loaded.named_modules():
            if isinstance(module, FrozenLinear):
                expected.get_submodule(name).weight.data = module.weight
        assert relative_error(loaded(ids).logits, expected(ids).logits) < LOGITS_FLOAT32


@pytest.mark.parametrize("model_type", families.COMPOSITES)
@torch.no_grad()
def test_models_of_pictures_and_text_train_on_text(model_type: str, tmp_path: Path) -> None:
    whole = AutoModelForImageTextToText.from_config(families.composite(model_type)).eval()
    whole.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    for quantization in ("none", "nf4"):
        loaded, _ = load_base(
            tmp_path, quantization=quantization, dtype=torch.float32, device="cpu"
        )
        row = examples()[1] % 256
        hidden = backbone_hidden(loaded, padded([row]))
        logits = loaded(row[None]).logits[0]
        assert relative_error(logits_fn(loaded)(hidden), logits) < LOGITS_FLOAT32
        if quantization == "none":
            assert relative_error(logits, whole(row[None]).logits[0]) < LOGITS_FLOAT32


def test_every_row_of_the_table_is_tested_or_refuses() -> None:
    untested = [
        name for name, row in ROWS.items() if row.refused is None and name not in families.FAMILIES
    ]
    assert untested == []


@pytest.mark.parametrize("model_type", [name for name, row in ROWS.items() if row.refused])
def test_refused_families_are_refused_by_name(model_type: str) -> None:
    with pytest.raises(ModelError, match=model_type):
        family(model_type)


def test_models_of_pictures_that_have_no_text_alone_are_told_so() -> None:
    with pytest.raises(ModelError, match=r"'qwen2_5_vl' is not supported.*pictures.*gemma3, "):
        family("qwen2_5_vl")
    for name in families.COMPOSITES:
        assert family(name).refused is None


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_a_base_in_training_mode_is_deterministic(model_type: str, family_folder) -> None:
    model, _ = load_base(family_folder(model_type), dtype=torch.float32, device="cpu")
    model.train()
    outputs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        outputs.append(model(examples()[1][None], use_cache=False).logits)
    assert torch.equal(*outputs)


ROPE = {"factor": 4.0, "rope_theta": 10000.0}
LIMIT = 16
ROPE_BY_LENGTH = {
    "dynamic": ("llama", {"rope_parameters": ROPE | {"rope_type": "dynamic"}}),
    "longrope": (
        "phi3",
        {
            "rope_parameters": ROPE
            | {
                "rope_type": "longrope",
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
                "original_max_position_embeddings": LIMIT,
            },
            "original_max_position_embeddings": LIMIT,
        },
    ),
}


@pytest.mark.parametrize("rope_type", ROPE_BY_LENGTH)
def test_examples_that_would_change_the_rotation_of_others_are_refused(rope_type: str) -> None:
    model_type, overrides = ROPE_BY_LENGTH[rope_type]
    context = LIMIT if rope_type == "dynamic" else 4 * LIMIT
    model = families.build(
        model_type, max_position_embeddings=context, initializer_range=0.3, **overrides
    )
    assert length_limit(model.config) == LIMIT
    rows = [row[:LIMIT] for row in examples()]
    alone = torch.cat([hidden_per_example(model, [row], pack=False) for row in rows])
    for pack in (True, False):
        assert relative_error(hidden_per_example(model, rows, pack=pack), alone) < LOGITS_FLOAT32
        with pytest.raises(ModelError, match=f"data.max_length to {LIMIT}"):
            hidden_per_example(model, examples(), pack=pack)


@pytest.mark.parametrize("rope_type", ["default", "linear", "yarn", "llama3"])
def test_other_rotations_do_not_depend_on_the_length(rope_type: str) -> None:
    by_type = {
        "yarn": {"original_max_position_embeddings": LIMIT},
        "llama3": {
            "original_max_position_embeddings": LIMIT,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    }
    parameters = ROPE | {"rope_type": rope_type} | by_type.get(rope_type, {})
    model = families.build(
        "llama",
        max_position_embeddings=4 * LIMIT,
        initializer_range=0.3,
        rope_parameters=parameters,
    )
    assert length_limit(model.config) is None
    rows = examples()
    alone = torch.cat([hidden_per_example(model, [row], pack=False) for row in rows])
    assert relative_error(hidden_per_example(model, rows, pack=True), alone) < LOGITS_FLOAT32


def test_attention_to_later_tokens_is_not_packed() -> None:
    model = families.build("gemma3_text", use_bidirectional_attention=True)
    with pytest.raises(ModelError, match=r"use_bidirectional_attention.*packing: false"):
        hidden_per_example(model, examples(), pack=True)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_models_with_another_attention_are_not_packed(attention: str) -> None:
    model = tiny.model("llama")
    model.set_attn_implementation(attention)
    with pytest.raises(ModelError, match="load_base"):
        hidden_per_example(model, examples(), pack=True)


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "cpu:3", "cuda:99"])
def test_devices_that_are_not_here_are_refused(device: str) -> None:
    with pytest.raises(ModelError, match="possible: "):
        compute_device(device)


def test_a_misspelt_offload_is_refused(family_folder) -> None:
    with pytest.raises(ModelError, match="offload 'ram'"):
        load_base(family_folder("llama"), device="cpu", offload="ram")
