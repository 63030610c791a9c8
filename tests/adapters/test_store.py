"""Adapters on disk: strict about what is missing, surplus, misshapen, unknown or hostile."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.adapters import save as saving
from lorakit.adapters.arithmetic.combine import combine_adapters
from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base import hub
from lorakit.base.load import load_base
from lorakit.errors import AdapterError, NonFiniteError
from lorakit.recipe import LoraConfig
from tests import tiny
from tests.adapters.bases import logits, perturb
from tests.adapters.peers import load_in_peft, make_in_peft, save_from_peft
from tests.tolerances import LOGITS_FLOAT32, relative_error

BOMB = r"(.|..|...)+[0-9]$"
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
UP = "base_model.model.model.layers.0.mlp.up_proj"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = tiny.model("llama")
    attach_adapter(model, LoraConfig(r=4))
    perturb(model)
    save_adapter(model, tmp_path / "adapter")
    return tmp_path / "adapter"


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / TENSORS)
    edit(tensors)
    save_file(tensors, folder / TENSORS)


def refused(folder: Path, expected: str) -> None:
    """Loading fails with this message, and leaves the model as it was."""
    model = tiny.model("llama")
    before = logits(model)
    with pytest.raises(AdapterError, match=f"(?s){expected}"):
        load_adapter(model, folder)
    assert torch.equal(logits(model), before)
    assert all(type(m).__module__.split(".")[0] != "lorakit" for m in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_config_has_exactly_what_peft_writes(saved: Path, tmp_path: Path) -> None:
    peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM"
    ).save_pretrained(tmp_path / "theirs")
    theirs = json.loads((tmp_path / "theirs" / CONFIG).read_text())
    text = (saved / CONFIG).read_text()
    ours = json.loads(text)
    assert list(ours) == sorted(theirs)
    different = {name for name in ours if ours[name] != theirs[name]}
    assert different == {"target_modules", "inference_mode"}
    assert ours["inference_mode"] is True
    assert (
        ours["target_modules"] == sorted(ours["target_modules"])
        and len(ours["target_modules"]) == 7
    )


def test_all_faults_of_the_tensors_are_listed(saved: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[f"{UP}.lora_A.weight"]
        tensors["base_model.model.surprise"] = torch.zeros(3)
        tensors[f"{UP}.lora_B.weight"] = torch.zeros(64, 5)

    edit_tensors(saved, spoil)
    refused(
        saved,
        r"3 faults.*misshapen base_model\.model\.model\.layers\.0\.mlp\.up_proj\.lora_B\.weight: "
        r"\(64, 5\) in the file, \(64, 4\) in the model.*"
        r"missing base_model\S+up_proj\.lora_A\.weight \(4, 32\).*"
        r"surplus base_model\.model\.surprise \(3,\)",
    )


def test_another_base_is_refused(saved: Path) -> None:
    model = tiny.model("llama", hidden_size=48)
    with pytest.raises(AdapterError, match=r"does not fit this model, .*base model it"):
        load_adapter(model, saved)


BAD_TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "nan": (lambda t: t[f"{UP}.lora_A.weight"].fill_(float("nan")), "NaN or infinite"),
    "infinity": (lambda t: t[f"{UP}.lora_A.weight"].fill_(float("inf")), "NaN or infinite"),
    "integers": (
        lambda t: t.update({f"{UP}.lora_A.weight": torch.ones(4, 32, dtype=torch.int64)}),
        "has dtype I64",
    ),
    "everything missing": (lambda t: t.clear(), "28 faults.*and 8 more"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors_are_refused(saved: Path, case: str) -> None:
    edit, expected = BAD_TENSORS[case]
    edit_tensors(saved, edit)
    refused(saved, expected)


BAD_CONFIGS: dict[str, tuple[dict[str, object], str]] = {
    "another method": ({"peft_type": "ADALORA"}, "peft_type 'ADALORA'"),
    "no method": ({"peft_type": None}, "peft_type None"),
    "another task": ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
    "a huge rank": ({"r": 200_000}, "r: Input should be less than or equal to 4096"),
    "a negative rank": ({"r": -1}, "r: "),
    "a rank that is a text": ({"r": "many"}, "r: "),
    "alpha NaN": ({"lora_alpha": float("nan")}, "NaN, which is no JSON number"),
    "alpha infinite": ({"lora_alpha": float("inf")}, "Infinity, which is no JSON number"),
    "a huge alpha": ({"lora_alpha": 1e308}, "lora_alpha 1e\\+308 is out of range"),
    "a huge alpha in a pattern": ({"alpha_pattern": {"q_proj": 1e300}}, "out of range"),
    "a huge rank in a pattern": ({"rank_pattern": {"q_proj": 10**6}}, "does not fit|rank_pattern"),
    "a regex bomb": ({"target_modules": BOMB}, "takes longer than"),
    "a regex bomb in a pattern": ({"rank_pattern": {BOMB: 4}}, "takes longer than"),
    "a path as target": ({"target_modules": ["../../q_proj"]}, "match no module"),
    "targets of a wrong type": ({"target_modules": {"q_proj": 1}}, "target_modules"),
    "an init that changes the base": ({"init_lora_weights": "corda"}, "'corda', which changes the"),
    "a random init": ({"init_lora_weights": "pissa_niter_4"}, "its SVD is random and unseeded"),
    "loftq of PEFT's": ({"init_lora_weights": "loftq"}, "it fits the base again"),
    "an init of a wrong type": ({"init_lora_weights": 3}, "init_lora_weights 3"),
    "lora_bias": ({"lora_bias": True}, "sets lora_bias to 'True'"),
    "kasa": ({"kasa_config": {"beta": 1}}, "sets kasa_config"),
    "expert parameters": (
        {"target_parameters": ["experts.gate_up_proj"]},
        "match no parameter of experts",
    ),
    "layer replication": ({"layer_replication": [[0, 2]]}, "sets layer_replication"),
    "token rows": ({"trainable_token_indices": [1, 2]}, r"missing \S+token_adapter"),
    "bdlora": ({"use_bdlora": {"nblocks": 2}}, "sets use_bdlora"),
    "a field of tomorrow": ({"use_magic": True}, "sets use_magic to 'True'"),
    "layers of a wrong type": (
        {"layers_to_transform": "all"},
        "no usable LoRA config: layers_to_trans",
    ),
    "another rank": ({"r": 8}, "misshapen"),
    "dora without magnitudes": ({"use_dora": True}, "missing .*lora_magnitude_vector"),
    "fewer targets": ({"target_modules": ["q_proj"]}, "surplus"),
    "a module in full that is not there": ({"modules_to_save": ["lm_head"]}, "missing .*lm_head"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs_are_refused(saved: Path, case: str) -> None:
    changes, expected = BAD_CONFIGS[case]
    edit_config(saved, **changes)
    refused(saved, expected)


def test_harmless_fields_are_let_through(saved: Path) -> None:
    edit_config(
        saved,
        a_field_of_tomorrow=None,
        another=[],
        auto_mapping={"base_model_class": "LlamaForCausalLM", "parent_library": "os"},
        base_model_name_or_path="../../../etc",
        revision="main",
        eva_config={"rho": 2.0},
        lora_dropout=0.3,
        peft_version="9.9",
        task_type=None,
        bias="all",
    )
    adapter = load_adapter(tiny.model("llama"), saved)
    assert adapter.config.lora_dropout == 0.3


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "holds no adapter_config.json"),
    "no tensors": (lambda f: (f / TENSORS).unlink(), "has no tensors; possible is"),
    "a pickle": (
        lambda f: (f / TENSORS).rename(f / "adapter_model.bin"),
        "adapter_model.bin, a pickle, which can run code",
    ),
    "half a config": (write(CONFIG, b'{"peft_type": "LO'), "cannot be read as JSON"),
    "a list": (write(CONFIG, b"[]"), "holds a list"),
    "no text": (write(CONFIG, b"\xff\xfe\x00"), "cannot be read as JSON"),
    "deep nesting": (write(CONFIG, b"[" * 100_000), "cannot be read as JSON"),
    "a huge config": (write(CONFIG, b" " * (1 << 21)), "has 2097152 bytes"),
    "no safetensors": (write(TENSORS, b"hello"), "no whole safetensors file"),
    "a huge header": (write(TENSORS, b"\xff" * 64), "no whole safetensors file"),
    "half a file": (
        lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-100]),
        "no whole safetensors file",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(saved: Path, case: str) -> None:
    spoil, expected = BAD_FILES[case]
    spoil(saved)
    refused(saved, expected)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "does not exist; possible: a folder with adapter_config.json")


def test_two_adapters_below_are_ambiguous(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / CONFIG).write_text("{}")
    refused(tmp_path, "holds 2 adapters: adapter, other")


def test_a_non_finite_adapter_is_not_saved(tmp_path: Path) -> None:
    model = tiny.model("llama")
    adapter = attach_adapter(model, LoraConfig(r=4))
    with torch.no_grad():
        next(iter(adapter.parameters().values())).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"q_proj\.adapter\.lora_A.*was not saved"):
        save_adapter(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_adapter_has_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="has no adapter; attach one"):
        save_adapter(tiny.model("llama"), tmp_path)
    model = tiny.model("llama")
    attach_adapter(model, LoraConfig(r=4))
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterError, match="is a file"):
        save_adapter(model, tmp_path / "file")


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("other_config", [False, True])
def test_a_crash_leaves_one_adapter_or_none(
    saved: Path, monkeypatch: pytest.MonkeyPatch, step: int, other_config: bool
) -> None:
    """The disk fills up before each of the three files: never new tensors under an old config."""
    model = tiny.model("llama")
    attach_adapter(model, LoraConfig(r=4, lora_alpha=3 if other_config else None))
    perturb(model, seed=9)
    writes = iter(range(10))
    write_atomically = saving.write_atomically

    def fill_up(path: Path, content: bytes) -> None:
        if next(writes) == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_atomically(path, content)

    old = tiny.model("llama")
    load_adapter(old, saved)
    monkeypatch.setattr(saving, "write_atomically", fill_up)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(model, saved)
    assert not [path for path in saved.iterdir() if path.name.startswith(".")]
    again = tiny.model("llama")
    if other_config:
        with pytest.raises(AdapterError, match=r"holds no adapter_config\.json"):
            load_adapter(again, saved)
    else:
        load_adapter(again, saved)
        assert torch.equal(logits(again), logits(old if step == 0 else model))
    assert stat.S_ISDIR(saved.stat().st_mode)


@pytest.mark.parametrize("base", ["meta-llama/Llama-3.1-8B", "/home/me/models/llama", None])
def test_the_model_card_says_what_is_known(tmp_path: Path, base: str | None) -> None:
    model = tiny.model("llama")
    model.config.name_or_path = base or ""
    adapter = attach_adapter(model, LoraConfig(r=4, use_dora=True))
    save_adapter(model, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert f"{adapter.trainable:,} of {adapter.total:,}, in 14 linear layers" in card
    assert "# DoRA adapter" in card and "Rank 4, alpha 8." in card
    assert json.loads((tmp_path / CONFIG).read_text())["base_model_name_or_path"] == base
    is_hub_id = base is not None and base.startswith("meta")
    assert (f"base_model: {base}\n" in card) is is_hub_id
    assert "/home/me" not in card
    assert "was stored as" not in card


@pytest.mark.parametrize(("double", "words"), [(True, "double"), (False, "no double")])
def test_the_model_card_warns_that_a_quantized_base_gives_other_logits(
    tiny_folder: Path, tmp_path: Path, double: bool, words: str
) -> None:
    model, _ = load_base(
        tiny_folder, quantization="nf4", block_size=32, double_quantization=double, device="cpu"
    )
    attach_adapter(model, LoraConfig(r=4))
    save_adapter(model, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert f"stored as nf4 while this was trained (block size 32, {words} quantization)" in card
    assert "the\ndense base, as above, the logits are others" in card


def test_the_model_card_names_the_built_in_base(tmp_path: Path) -> None:
    model, _ = load_base("builtin", device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    save_adapter(model, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "Base model: the one that ships with lorakit (`builtin`)." in card
    assert "base_model:" not in card


def test_a_folder_named_relatively_is_no_hub_id(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where it was trained nor where adapters are combined."""
    shutil.copytree(tiny_folder, tmp_path / "models" / "llama")
    monkeypatch.chdir(tmp_path)
    model, _ = load_base("models/llama", device="cpu")
    attach_adapter(model, LoraConfig(r=2))
    save_adapter(model, tmp_path / "a")
    combine_adapters([tmp_path / "a"], tmp_path / "b", weights=[0.5])
    for folder in ("a", "b"):
        values = json.loads((tmp_path / folder / CONFIG).read_text())
        assert values["base_model_name_or_path"] == "models/llama"
        assert "models/llama" not in (tmp_path / folder / "README.md").read_text()


def test_the_revision_of_the_base_is_kept(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "resolve", lambda model, revision=None: tiny_folder)
    model, _ = load_base("org/model", revision="v1.2", device="cpu")
    attach_adapter(model, LoraConfig(r=2))
    save_adapter(model, tmp_path / "a")
    combine_adapters([tmp_path / "a"], tmp_path / "b", weights=[0.5])
    for folder in ("a", "b"):
        assert json.loads((tmp_path / folder / CONFIG).read_text())["revision"] == "v1.2"


def test_an_alpha_by_rank_reaches_peft(tmp_path: Path) -> None:
    """Not given, it is twice each module's own rank; PEFT's one alpha does not follow a rank."""
    model = tiny.model("llama")
    adapter = attach_adapter(model, LoraConfig(r=4, rank_pattern={"q_proj": 2, "up_proj": 3}))
    assert {facts.scaling for facts in adapter.adapted.values()} == {2.0}
    perturb(model)
    save_adapter(model, tmp_path / "a")
    values = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert values["alpha_pattern"] == {"q_proj": 4, "up_proj": 6} and values["lora_alpha"] == 8
    theirs = load_in_peft(tiny.model("llama"), tmp_path / "a")
    assert relative_error(logits(theirs), logits(model)) <= LOGITS_FLOAT32


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["lm_head"]])
@pytest.mark.parametrize("tied", [False, True])
def test_peft_s_copies_of_the_base_are_checked(
    tmp_path: Path, tied: bool, targets: list[str]
) -> None:
    base = tiny.model("llama", tie_word_embeddings=tied)
    config = peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save_embedding_layers.*")
        theirs = make_in_peft(base, config)
        save_from_peft(theirs, tmp_path)
    assert any(".base_layer." in name for name in load_file(tmp_path / TENSORS))
    ours = tiny.model("llama", tie_word_embeddings=tied)
    load_adapter(ours, tmp_path)
    assert relative_error(logits(ours), logits(theirs)) <= LOGITS_FLOAT32
    other = tiny.model("llama", seed=1, tie_word_embeddings=tied)
    with pytest.raises(AdapterError, match="differs from the base's weight"):
        load_adapter(other, tmp_path)


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_pipes_are_refused(saved: Path, name: str) -> None:
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(AdapterError, match="not a regular file"):
        load_adapter(tiny.model("llama"), saved)


@pytest.mark.parametrize("pattern", [5, {"a": 1}, ["h", 5]])
def test_a_layers_pattern_of_something_else_is_refused(saved: Path, pattern: object) -> None:
    edit_config(saved, layers_pattern=pattern)
    with pytest.raises(AdapterError, match="layers_pattern"):
        load_adapter(tiny.model("llama"), saved)


def test_norms_keep_their_dtype_when_the_model_is_cast() -> None:
    model = tiny.model("llama")
    attach_adapter(model, LoraConfig(r=4, use_dora=True))
    adapter = model.model.layers[0].self_attn.q_proj.adapter
    before = adapter.weight_norm_squared.clone()
    model.to(torch.bfloat16)
    assert torch.equal(adapter.weight_norm_squared, before)
    assert before.dtype == adapter.weight_norm_squared.dtype == torch.float32
    model.to(torch.float64)
    assert adapter.weight_norm_squared.dtype == torch.float64
