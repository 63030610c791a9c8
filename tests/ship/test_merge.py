"""Law 2: merged == adapter, in memory and on disk, for every kind and storage."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
)

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.kinds.lora import Lora
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base import model_folder
from lorakit.base.checkpoint import read_entries
from lorakit.base.load import load_base
from lorakit.base.write_quantized import PackSettings
from lorakit.errors import AdapterError, InputError, VerificationError
from lorakit.recipe import LoraConfig
from lorakit.ship import write_merged as writing
from lorakit.ship.merge import merge
from lorakit.ship.merge_folder import merge_folder
from lorakit.ship.verify import difference, error_bound, verify_merge
from tests import families, tiny
from tests.adapters.bases import (
    FAMILIES,
    KINDS,
    STORAGES,
    Load,
    every_variant,
    folder_of,
    logits,
    perturb,
    token_ids,
)
from tests.adapters.peers import load_in_peft
from tests.tolerances import LOGITS_FLOAT32, relative_error

BESIDE = {"bias": "all", "modules_to_save": ["lm_head", "model.norm"]}


@pytest.mark.parametrize(("family", "storage", "kind", "use_rslora"), every_variant())
def test_merged_in_memory_equals_the_adapter(
    load: Load, tmp_path: Path, family: str, storage: str, kind: str, use_rslora: bool
) -> None:
    model = load(family, storage)
    attach_adapter(model, LoraConfig(kind=kind, r=4, use_rslora=use_rslora))
    perturb(model)
    adapted = logits(model)
    merged = merge(model)
    assert relative_error(logits(merged), adapted) <= LOGITS_FLOAT32
    assert torch.equal(logits(model), adapted)
    assert not [n for n, m in merged.named_modules() if type(m).__module__.startswith("lorakit")]
    original = tiny.model(family)
    types = {name: type(module) for name, module in original.named_modules()}
    assert types == {name: type(module) for name, module in merged.named_modules()}
    merged.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert relative_error(logits(plain.eval()), adapted) <= LOGITS_FLOAT32


def test_the_merged_model_shares_nothing(load: Load) -> None:
    model = load("gpt2")
    attach_adapter(model, LoraConfig(r=4))
    perturb(model)
    before = logits(model)
    merged = merge(model)
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()
    assert torch.equal(logits(model), before)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    merged.save_pretrained  # noqa: B018 (the class's own again)
    assert "save_pretrained" not in vars(merged)


def test_noise_of_the_original_config_comes_back(load: Load) -> None:
    model = load("gpt2")
    assert model.config.attn_pdrop == 0.0
    attach_adapter(model, LoraConfig(r=4))
    merged = merge(model)
    assert merged.config.attn_pdrop == tiny.config("gpt2").attn_pdrop > 0
    assert merged.config._attn_implementation == "sdpa"


def test_parts_beside_the_adapter_are_merged(load: Load) -> None:
    model = load("qwen2", dtype=torch.bfloat16)
    attach_adapter(model, LoraConfig(r=4, **BESIDE))
    perturb(model)
    merged = merge(model)
    assert merged.lm_head.weight.dtype == torch.bfloat16
    assert difference(logits(merged), logits(model)) <= error_bound(torch.bfloat16, 3)


def tied_folder(path: Path) -> Path:
    return tiny.folder(path, "llama", tie_word_embeddings=True)


TIED_CONFIGS = {
    "head in full": LoraConfig(r=4, modules_to_save=["lm_head"]),
    "embeddings in full": LoraConfig(r=4, modules_to_save=["embed_tokens"]),
    "adapter on the head": LoraConfig(r=4, target_modules=["lm_head", "q_proj"]),
    "neither": LoraConfig(r=4),
}


@pytest.mark.parametrize("name", TIED_CONFIGS)
def test_a_changed_tied_head_is_untied_in_writing(tmp_path: Path, name: str) -> None:
    base = tied_folder(tmp_path / "base")
    model, _ = load_base(base, dtype=torch.float32, device="cpu")
    attach_adapter(model, TIED_CONFIGS[name])
    perturb(model)
    adapted = logits(model)
    save_adapter(model, tmp_path / "adapter")
    merge(model).save_pretrained(tmp_path / "in memory")
    merge_folder(base, tmp_path / "adapter", tmp_path / "on disk")
    for output in ("in memory", "on disk"):
        values = json.loads((tmp_path / output / "config.json").read_text())
        assert values["tie_word_embeddings"] is (name == "neither"), output
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / output)
        assert relative_error(logits(plain.eval()), adapted) <= LOGITS_FLOAT32, output


def trained_adapter(
    base: Path, folder: Path, storage: str = "none", dtype=torch.float32, **config
) -> PreTrainedModel:
    """A base with a perturbed adapter, saved in `folder`."""
    model, _ = load_base(base, quantization=storage, dtype=dtype, device="cpu")
    attach_adapter(model, LoraConfig(r=4, **config))
    perturb(model)
    save_adapter(model, folder)
    return model


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct)
def test_written_files_follow_the_umask(tiny_folder: Path, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        trained_adapter(tiny_folder, tmp_path / "adapter")
        merge_folder(tiny_folder, tmp_path / "adapter", tmp_path / "out", max_shard_size="100KB")
    finally:
        os.umask(before)
    written = [*(tmp_path / "out").iterdir(), *(tmp_path / "adapter").iterdir()]
    assert sum(path.suffix == ".safetensors" for path in written) > 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o666 & ~umask}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_on_disk_equals_the_adapter(
    folders, tmp_path: Path, family: str, storage: str, kind: str
) -> None:
    base, output = folder_of(folders, family, storage), tmp_path / "out"
    model = trained_adapter(base, tmp_path / "adapter", storage, kind=kind, use_rslora=True)
    report = merge_folder(base, tmp_path / "adapter", output, quantization=storage)
    assert report.verification.error <= LOGITS_FLOAT32 < report.verification.effect
    plain = AutoModelForCausalLM.from_pretrained(output).eval()
    assert relative_error(logits(plain), logits(model)) <= LOGITS_FLOAT32
    in_memory = dict(merge(model).named_parameters())
    assert all(relative_error(p, in_memory[n]) <= 1e-6 for n, p in plain.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_biases_patterns_and_full_modules_on_disk(folders, tmp_path: Path, kind: str) -> None:
    base = folders["qwen2"]
    model = trained_adapter(
        base, tmp_path / "adapter", kind=kind, rank_pattern={"q_proj": 2}, **BESIDE
    )
    merge_folder(base, tmp_path / "adapter", tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert relative_error(logits(plain), logits(model)) <= LOGITS_FLOAT32


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_smaller_dtypes_stay_in_their_bound(
    folders, tmp_path: Path, dtype: torch.dtype, storage: str
) -> None:
    base, output = folder_of(folders, "llama", storage), tmp_path / "out"
    model = trained_adapter(base, tmp_path / "adapter", storage, dtype)
    report = merge_folder(base, tmp_path / "adapter", output, quantization=storage, dtype=dtype)
    assert report.verification.error <= report.verification.bound == error_bound(dtype, 3)
    assert report.verification.effect > 3 * report.verification.bound
    assert report.weight_error <= torch.finfo(dtype).eps
    values = json.loads((output / "config.json").read_text())
    assert values["dtype"] == str(dtype).removeprefix("torch.")
    in_memory = dict(merge(model).named_parameters())
    plain = AutoModelForCausalLM.from_pretrained(output, dtype=dtype)
    assert all(torch.equal(p, in_memory[name]) for name, p in plain.named_parameters())


def test_into_the_original_is_measured_not_bounded(folders, tmp_path: Path) -> None:
    base = folders["llama"]
    trained_adapter(base, tmp_path / "adapter", "nf4")
    report = merge_folder(
        base, tmp_path / "adapter", tmp_path / "out", into="original", quantization="nf4"
    )
    assert report.verification.bound is None
    assert report.verification.error > 1e-3
    assert "not bounded" in str(report.verification)
    dense, _ = load_base(base, dtype=torch.float32, device="cpu")
    load_adapter(dense, tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert relative_error(logits(plain), logits(dense)) <= LOGITS_FLOAT32


def test_the_folder_is_complete_and_unchanged_tensors_keep_their_bytes(
    folders, tmp_path: Path
) -> None:
    base, output = folders["llama"], tmp_path / "out"
    trained_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    report = merge_folder(base, tmp_path / "adapter", output)
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}
    assert (report.num_tensors, report.num_changed) == (len(before), 2)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (output / name).read_bytes() == (base / name).read_bytes()
    one, two = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(output)
    assert one.chat_template == two.chat_template
    original = json.loads((base / "config.json").read_text())
    written = json.loads((output / "config.json").read_text())
    assert written == {name: value for name, value in original.items() if name in written}
    with safe_open(output / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_files_are_split_at_the_size_asked_for(folders, tmp_path: Path) -> None:
    base, output = folders["llama"], tmp_path / "out"
    model = trained_adapter(base, tmp_path / "adapter")
    merge_folder(base, tmp_path / "adapter", output, max_shard_size="60KB")
    files = sorted(output.glob("*.safetensors"))
    assert len(files) > 2 and all(path.stat().st_size < 70_000 for path in files)
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((output / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in files}
    plain = AutoModelForCausalLM.from_pretrained(output).eval()
    assert relative_error(logits(plain), logits(model)) <= LOGITS_FLOAT32
    again = tmp_path / "again"
    merge_folder(output, tmp_path / "adapter", again)  # a sharded base works too
    assert len(list(again.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss", "nemotron_h", "llama4_text"])
def test_experts_are_written_as_the_checkpoint_has_them(
    model_type: str, quantization: str, tmp_path: Path
) -> None:
    base, output = families.folder(tmp_path / "base", model_type), tmp_path / "out"
    model = trained_adapter(base, tmp_path / "adapter", quantization)
    report = merge_folder(base, tmp_path / "adapter", output, quantization=quantization)
    before, after = read_entries(base), read_entries(output)
    assert {n: e.shape for n, e in after.items()} == {n: e.shape for n, e in before.items()}
    assert report.num_tensors == len(before) > report.num_changed > 0
    plain = AutoModelForCausalLM.from_pretrained(output).eval()
    assert relative_error(logits(plain), logits(model)) <= LOGITS_FLOAT32


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_experts_merge_into_the_original_and_quantized(model_type: str, tmp_path: Path) -> None:
    base = families.folder(tmp_path / "base", model_type)
    model = trained_adapter(base, tmp_path / "adapter", "nf4")
    report = merge_folder(
        base, tmp_path / "adapter", tmp_path / "original", quantization="nf4", into="original"
    )
    assert report.weights is not None
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert report.weights.layers[name].retained == pytest.approx(1, abs=1e-4)
    on_disk = AutoModelForCausalLM.from_pretrained(tmp_path / "original")
    in_memory = merge(model, into="original").get_parameter(name)
    assert relative_error(on_disk.get_parameter(name), in_memory) <= LOGITS_FLOAT32
    merge_folder(
        base,
        tmp_path / "adapter",
        tmp_path / "packed",
        quantization="nf4",
        quantize=PackSettings("nf4"),
    )
    packed, _ = load_base(tmp_path / "packed", quantization="checkpoint", device="cpu")
    assert relative_error(packed.get_parameter(name), in_memory) <= 1e-2  # experts stay dense
    again = tmp_path / "saved"
    merge(model).save_pretrained(again)
    before, after = read_entries(base), read_entries(again)
    assert {n: e.shape for n, e in after.items()} == {n: e.shape for n, e in before.items()}
    plain = AutoModelForCausalLM.from_pretrained(again)
    assert relative_error(logits(plain), logits(model)) <= LOGITS_FLOAT32


def test_experts_that_have_no_adapter_keep_their_bytes(tmp_path: Path) -> None:
    base, output = families.folder(tmp_path / "base", "mixtral"), tmp_path / "out"
    trained_adapter(base, tmp_path / "adapter", kind="dora", target_parameters=[])
    merge_folder(base, tmp_path / "adapter", output)
    before, after = (load_file(path / "model.safetensors") for path in (base, output))
    experts = [name for name in before if ".experts." in name]
    assert experts and all(torch.equal(before[name], after[name]) for name in experts)


@pytest.mark.parametrize("wrong", ["weights", "definition", "logits"])
def test_a_wrong_merge_is_caught_and_leaves_nothing(
    folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    base, output = folders["llama"], tmp_path / "out"
    trained_adapter(base, tmp_path / "adapter")
    right, config = Lora.merged_weight, writing._config
    if wrong == "weights":
        # Wrong in float32 only, as a broken kernel would be.
        def merged_weight(self: Lora, weight: torch.Tensor) -> torch.Tensor:
            merged = right(self, weight)
            return merged if weight.dtype == torch.float64 else merged * 1.001

        monkeypatch.setattr(Lora, "merged_weight", merged_weight)
        expected = r"merged weight of 'model\.layers\.0\..*' is off by 0\.001"
    elif wrong == "definition":
        # Wrong in every dtype: only the layer's forward pass knows better.
        def half(self: Lora, weight: torch.Tensor) -> torch.Tensor:
            return weight + 0.5 * (right(self, weight) - weight)

        monkeypatch.setattr(Lora, "merged_weight", half)
        expected = r"merged weight of 'model\.layers\.0\..*' is off by"
    else:
        monkeypatch.setattr(
            writing, "_config", lambda *given: config(*given) | {"rms_norm_eps": 0.1}
        )
        expected = "first difference is in decoder layer 0"
    with pytest.raises(VerificationError, match=expected):
        merge_folder(base, tmp_path / "adapter", output)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", ["stories260K", "bitllama-1M"])
def test_real_models_merge_and_load_in_peft(
    shared_data: Path, tmp_path: Path, name: str, storage: str
) -> None:
    base = folder_of({name: shared_data / "models" / name}, name, storage, tmp_path)
    model = trained_adapter(base, tmp_path / "adapter", storage, use_dora=True)
    report = merge_folder(base, tmp_path / "adapter", tmp_path / "out", quantization=storage)
    assert report.verification.error <= LOGITS_FLOAT32 < report.verification.effect
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert relative_error(logits(merged), logits(model)) <= LOGITS_FLOAT32
    if storage == "none":
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        in_peft = load_in_peft(plain, tmp_path / "adapter")
        assert relative_error(logits(in_peft), logits(model)) <= LOGITS_FLOAT32


def test_a_disk_that_forgets_is_caught(
    folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_adapter(folders["llama"], tmp_path / "adapter")

    def forgetful(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file({name: torch.zeros_like(t) for name, t in tensors.items()}, path, metadata)

    monkeypatch.setattr(model_folder, "save_file", forgetful)
    with pytest.raises(VerificationError, match="does not read back as it was written"):
        merge_folder(folders["llama"], tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_in_use_is_refused(folders, tmp_path: Path) -> None:
    base = folders["llama"]
    trained_adapter(base, tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    for output in (tmp_path / "out", tmp_path / "out" / "mine"):
        with pytest.raises(InputError, match="not an empty folder"):
            merge_folder(base, tmp_path / "adapter", output)
    assert (tmp_path / "out" / "mine").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    merge_folder(base, tmp_path / "adapter", tmp_path / "empty")
    with pytest.raises(AdapterError, match="into 'codes'"):
        merge_folder(base, tmp_path / "adapter", tmp_path / "other", into="codes")


def test_verify_names_the_layer(folders, tmp_path: Path) -> None:
    base = folders["llama"]
    trained_adapter(base, tmp_path / "adapter")
    merge_folder(base, tmp_path / "adapter", tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        plain.model.layers[1].mlp.up_proj.weight.mul_(1.01)
    plain.save_pretrained(tmp_path / "spoiled")
    arguments = {"base": base, "adapter": tmp_path / "adapter", "dtype": torch.float32}
    assert verify_merge(tmp_path / "out", **arguments).error <= LOGITS_FLOAT32
    with pytest.raises(VerificationError, match="decoder layer 1"):
        verify_merge(tmp_path / "spoiled", **arguments)


def test_layers_that_share_a_weight_are_refused() -> None:
    model = tiny.model("llama")
    one, two = model.model.layers[0].mlp, model.model.layers[1].mlp
    two.up_proj.weight = one.up_proj.weight
    attach_adapter(model, LoraConfig(r=4))
    with pytest.raises(AdapterError, match=r"layers\.0\.mlp\.up_proj, .*share one weight"):
        merge(model)


def test_bounds_grow_with_the_rounding_and_the_depth() -> None:
    assert error_bound(torch.float32, 100) == 1e-5
    assert error_bound(torch.float16, 4) < error_bound(torch.bfloat16, 4)
    assert error_bound(torch.bfloat16, 32) > error_bound(torch.bfloat16, 2)
    ones = torch.ones(1, 3, 2, dtype=torch.bfloat16)
    off = ones.clone()
    off[0, 0] = 100  # one token of three: the median does not see it, float32 does
    assert difference(off, ones) == 0 < difference(off.float(), ones.float())


def test_recurrent_states_do_not_stop_a_merge() -> None:
    model = families.build("recurrent_gemma")
    attach_adapter(model, LoraConfig(r=4))
    model(input_ids=token_ids(), labels=token_ids()).loss.backward()
    assert relative_error(logits(merge(model)), logits(model)) <= LOGITS_FLOAT32


@pytest.mark.parametrize("written", [None, torch.float32, torch.bfloat16])
def test_the_merge_goes_into_the_weights_of_a_run_in_another_dtype(
    folders, tmp_path: Path, written: torch.dtype | None
) -> None:
    base, output = folders["llama"], tmp_path / "out"
    model = trained_adapter(base, tmp_path / "adapter", "nf4", torch.bfloat16)
    report = merge_folder(
        base,
        tmp_path / "adapter",
        output,
        quantization="nf4",
        dtype=written,
        base_dtype=torch.bfloat16,
    )
    assert report.verification.dtype == torch.bfloat16
    merged = load_file(output / "model.safetensors")
    layer = model.model.layers[0].self_attn.q_proj
    adapter = layer.adapter
    trained_on = layer.base_layer.stored.dequantize().double()
    exact = trained_on + adapter.scaling * adapter.lora_B.double() @ adapter.lora_A.double()
    limit = torch.finfo(torch.bfloat16).eps / 2 if written == torch.bfloat16 else 1e-6
    assert relative_error(merged["model.layers.0.self_attn.q_proj.weight"], exact) <= limit


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_small_effect_that_is_missing_in_bfloat16_is_caught(tmp_path: Path, share: float) -> None:
    base = tmp_path / "base"
    tiny.model("llama").to(torch.bfloat16).save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    model, _ = load_base(base, dtype=torch.bfloat16, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    # Below the bound on the error for the missing one, well above it for half of one.
    perturb(model, size=0.005 if share == 0 else 0.1)
    save_adapter(model, tmp_path / "adapter")
    arguments = {"base": base, "adapter": tmp_path / "adapter", "dtype": torch.bfloat16}
    merge_folder(base, tmp_path / "adapter", tmp_path / "out", base_dtype=torch.bfloat16)
    right = verify_merge(tmp_path / "out", **arguments)
    assert right.error <= right.bound
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    original = AutoModelForCausalLM.from_pretrained(base).state_dict()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(original[name] + share * (parameter - original[name]))
    plain.save_pretrained(tmp_path / "spoiled")
    with pytest.raises(VerificationError):
        verify_merge(tmp_path / "spoiled", **arguments)


def test_nothing_of_transformers_is_printed_while_verifying(
    folders, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained_adapter(folders["llama"], tmp_path / "adapter")
    capfd.readouterr()
    merge_folder(folders["llama"], tmp_path / "adapter", tmp_path / "out")
    assert "Loading weights" not in capfd.readouterr().err


@pytest.mark.parametrize("model_type", families.COMPOSITES)
def test_models_of_pictures_and_text_merge(tmp_path: Path, model_type: str) -> None:
    AutoModelForImageTextToText.from_config(families.composite(model_type)).save_pretrained(
        tmp_path
    )
    tiny.tokenizer().save_pretrained(tmp_path)
    model, _ = load_base(tmp_path, dtype=torch.float32, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    perturb(model)
    ids = token_ids() % 256
    with torch.no_grad():
        assert relative_error(merge(model)(ids).logits, model(ids).logits) <= LOGITS_FLOAT32
