"""Adapter folders read without a base: strict about types, options, shapes, and hostile files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.adapters.arithmetic.convert import convert_adapter
from lorakit.adapters.arithmetic.info import adapter_info
from lorakit.adapters.store import load_adapter
from lorakit.errors import AdapterError
from tests.adapters.arithmetic.made_by_peft import TENSORS, VARIANTS, base, deltas, make
from tests.adapters.test_peft_examples import configs, refused_field
from tests.tolerances import relative_error

CONFIG = "adapter_config.json"
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(VARIANTS["plain"], tmp_path_factory.mktemp("adapter") / "plain")


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in original.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / TENSORS)
        edit(tensors)
        save_file(tensors, folder / TENSORS)

    return spoil


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "holds no adapter_config.json"),
    "no tensors": (lambda f: (f / TENSORS).unlink(), "has no tensors"),
    "a pickle": (lambda f: (f / TENSORS).rename(f / "adapter_model.bin"), "a pickle, which can"),
    "half a file": (lambda f: (f / TENSORS).write_bytes(b"\x10" * 40), "no whole safetensors"),
    "an empty file": (lambda f: save_file({}, f / TENSORS), "no lora_A and lora_B at all"),
    "a huge rank": (lambda f: edit_config(f, r=10**9), "r: Input should be less than"),
    "a huge rank in a pattern": (
        lambda f: edit_config(f, rank_pattern={"q_proj": 10**9}),
        "its config says rank 1000000000",
    ),
    "another rank": (lambda f: edit_config(f, r=8), "6 faults: .*its config says rank 8"),
    "a regex bomb": (
        lambda f: edit_config(f, rank_pattern={r"(.|..|...)+[0-9]$": 4}),
        "takes longer than",
    ),
    "alpha infinite": (lambda f: edit_config(f, lora_alpha=float("inf")), "Infinity, which is no"),
    "NaN": (edit_tensors(lambda t: t[f"{Q}.lora_A.weight"].fill_(float("nan"))), "NaN or infinite"),
    "half a layer": (
        edit_tensors(lambda t: t.pop(f"{Q}.lora_A.weight")),
        "missing model.layers.0.self_attn.q_proj.lora_A.weight",
    ),
    "a layer of a convolution": (
        edit_tensors(lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 3, 2, 2)})),
        "which are no matrices",
    ),
    "integers": (
        edit_tensors(lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 32).long()})),
        "has dtype I64",
    ),
    "a tensor of another method": (
        edit_tensors(lambda t: t.update({f"{Q}.lora_E": torch.ones(4, 1)})),
        "surplus base_model.model.model.layers.0.self_attn.q_proj.lora_E",
    ),
    "many copies of the base": (
        edit_tensors(lambda t: t.update({f"{Q}{n}.weight": torch.ones(2, 2) for n in range(3)})),
        "surplus .*q_proj0.weight",
    ),
    "magnitudes without use_dora": (
        edit_tensors(lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(32)})),
        "surplus .*lora_magnitude_vector",
    ),
    "dora without magnitudes": (
        lambda f: edit_config(f, use_dora=True),
        "missing .*lora_magnitude_vector",
    ),
    "a bias of a wrong shape": (
        edit_tensors(lambda t: t.update({f"{Q}.lora_B.bias": torch.ones(5)})),
        r"misshapen .*lora_B.bias \(5,\), the layer has 32 outputs",
    ),
    "kasa": (lambda f: edit_config(f, kasa_config={"beta": 1}), "sets kasa_config"),
    "layer replication": (lambda f: edit_config(f, layer_replication=[[0, 2]]), "layer_replic"),
    "a field of tomorrow": (lambda f: edit_config(f, use_magic=True), "sets use_magic"),
    "targets of a wrong type": (
        lambda f: edit_config(f, target_parameters="experts.down_proj"),
        "target_parameters .* is no list of names",
    ),
    "a nested dict as names": (
        lambda f: edit_config(f, modules_to_save={"lm_head": 1}),
        "modules_to_save",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_folders_are_refused(saved: Path, case: str) -> None:
    spoil, expected = HOSTILE[case]
    spoil(saved)
    with pytest.raises(AdapterError, match=f"(?s){expected}"):
        adapter_info(saved)


def test_patterns_that_name_experts_are_refused(tmp_path: Path) -> None:
    folder = make(VARIANTS["experts"], tmp_path / "experts")
    edit_config(folder, rank_pattern={"down_proj": 3})
    with pytest.raises(AdapterError, match=r"rank_pattern 'down_proj' names the experts"):
        adapter_info(folder)


def test_peft_s_example_configs_are_read_or_refused_by_name(shared_data: Path, saved: Path) -> None:
    """Every type but LoRA by its name, options of other methods by theirs."""
    refused = set()
    for values in configs(shared_data).values():
        (saved / CONFIG).write_text(json.dumps(values))
        by_type = f"peft_type '{values['peft_type']}'"
        by_field = "sets kasa_config|sets use_bdlora"
        by_tensors = "do not fit its adapter_config.json"
        expected = by_type
        if values["peft_type"] == "LORA":
            by_init = "init_lora_weights 'mica'"
            expected = {None: by_tensors, "init_lora_weights": by_init}.get(
                refused_field(values), by_field
            )
        with pytest.raises(AdapterError, match=expected):
            adapter_info(saved)
        refused.add(values["peft_type"])
    assert len(refused) > 30


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_described(tmp_path: Path, name: str) -> None:
    variant = VARIANTS[name]
    folder = make(variant, tmp_path / "in")
    found = adapter_info(folder)
    expected = {k: v for k, v in deltas(variant.family, folder).items() if " bias" not in k}
    by_size = sorted(float(delta.norm()) for delta in expected.values())
    norms = torch.tensor(sorted(layer.norm for layer in found.layers))
    assert relative_error(norms, torch.tensor(by_size)) < 1e-6
    tensors = load_file(folder / TENSORS)
    own = {k: v for k, v in tensors.items() if "base_layer.weight" not in k}
    assert found.num_parameters == sum(value.numel() for value in own.values())
    assert found.num_bytes == (folder / TENSORS).stat().st_size
    assert sum(found.dtypes.values()) == len(tensors)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["kind"] == "lora"
    assert sum(group.count for group in found.groups()) == len(found.layers)


def test_patterns_that_load_adapter_reads_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """PEFT saves them: keys that match nothing, and overlapping ones in another order."""
    layer = r"layers\.1\.self_attn\.q_proj"
    folder = make(
        VARIANTS["plain"],
        tmp_path / "in",
        rank_pattern={"q_proj": 2, layer: 3, "no_such": 7},
        alpha_pattern={"q_proj": 5, "no_such": 9},
    )
    edit_config(folder, rank_pattern={layer: 3, "q_proj": 2, "no_such": 7})
    ours = base("qwen2")
    expected = load_adapter(ours, folder).adapted
    found = {layer.name: (layer.r, layer.scaling) for layer in adapter_info(folder).layers}
    assert found == {name: (facts.r, facts.scaling) for name, facts in expected.items()}
    assert {r for r, _ in found.values()} >= {2, 4} and not caplog.records
    convert_adapter(folder, tmp_path / "out")
    again = load_adapter(base("qwen2"), tmp_path / "out").adapted
    assert {name: (facts.r, facts.scaling) for name, facts in again.items()} == found
    edit_config(folder, alpha_pattern={"q_proj": 5, layer: 8})
    adapter_info(folder)
    assert "the order it was trained with is lost" in caplog.text


def test_what_trains_in_full_is_listed(tmp_path: Path) -> None:
    folder = make(
        VARIANTS["plain"],
        tmp_path / "in",
        modules_to_save=["lm_head"],
        bias="all",
        trainable_token_indices=None,
        use_dora=True,
    )
    found = adapter_info(folder)
    assert found.kind == "dora" and found.modules_to_save == ["lm_head"]
    assert found.replaced["lm_head.weight"] == (400, 32)
    assert any(name.endswith("k_proj.bias") for name in found.replaced) and not found.copies
    rows = make(
        VARIANTS["plain"], tmp_path / "rows", trainable_token_indices={"embed_tokens": [3, 7]}
    )
    assert adapter_info(rows).replaced == {"model.embed_tokens": (2, 32)}


def test_a_real_adapter(shared_data: Path) -> None:
    found = adapter_info(shared_data / "adapters" / "gpt2-tigrinya-lora")
    assert {layer.r for layer in found.layers} == {8} and len(found.layers) == 36
    assert found.num_parameters == 811_008 and found.base_model == "gpt2"
    assert [group.name for group in found.groups()] == ["c_attn", "attn.c_proj", "mlp.c_proj"]
    assert all(layer.scaling == 4 and 1 < layer.effective_rank < 8 for layer in found.layers)
