"""Saving what an init took out of the base: the plain form is exact on a dense base, the
unconverted one everywhere.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from lorakit.adapters import own_form
from lorakit.adapters import save as saving
from lorakit.adapters.attach import adapter_disabled, attach_adapter, attached
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.load import load_base
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from lorakit.ship.merge_folder import merge_folder
from tests import tiny
from tests.adapters.bases import (
    FAMILIES,
    Load,
    attach_init,
    every_variant,
    logits,
    perturb,
)
from tests.adapters.peers import load_in_peft, make_in_peft, save_from_peft
from tests.adapters.test_inits import EVERY_VARIANT, PACKED_PARAMETERS, VARIANTS
from tests.tolerances import LOGITS_FLOAT32, relative_error

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
OWN = own_form.FOLDER
PATTERNS = {
    "rank_pattern": {r"layers\.0\..*": 2},
    "alpha_pattern": {"q_proj": 3, "up_proj": 5.5},
}


def saved(model: PreTrainedModel, folder: Path, init: str, **config: object) -> PreTrainedModel:
    """A model with a perturbed adapter of this init, saved in `folder`."""
    attach_init(model, init, **({"lora_alpha": 6} | config))
    perturb(model)
    save_adapter(model, folder)
    return model


def plain_only(folder: Path, to: Path) -> Path:
    """A copy of an adapter without its unconverted form."""
    shutil.copytree(folder, to)
    shutil.rmtree(to / OWN)
    return to


@pytest.mark.parametrize(("storage", "kind", "init"), VARIANTS)
def test_saved_is_loaded(load: Load, tmp_path: Path, storage: str, kind: str, init: str) -> None:
    """The very model: its start too, and the same bytes when it is saved again."""
    one = tmp_path / "one"
    model = saved(load("qwen2", storage), one, init, kind=kind, use_rslora=True, **PATTERNS)
    again = load("qwen2", storage)
    load_adapter(again, one)
    assert torch.equal(logits(again), logits(model))
    with adapter_disabled(model), adapter_disabled(again):
        assert torch.equal(logits(again), logits(model))
    save_adapter(again, tmp_path / "two")
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 6 + (init == "loftq")  # which is marked
    for file in files:
        assert (one / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize(
    ("kind", "init"), [v[1:] for v in EVERY_VARIANT if v[0] == "none" and v[2] != "pissa_niter_4"]
)
def test_the_plain_form_is_exact_on_a_dense_base(
    load: Load, tmp_path: Path, kind: str, init: str, use_rslora: bool
) -> None:
    """Here and in PEFT, with ranks, alphas and scalings of their own: PEFT refuses to convert
    those."""
    for family in FAMILIES:
        patterns = PATTERNS if family != "gpt2" else {"rank_pattern": {"c_attn": 2}}
        folder = tmp_path / family
        model = saved(load(family), folder, init, kind=kind, use_rslora=use_rslora, **patterns)
        values = json.loads((folder / CONFIG).read_text())
        assert values["init_lora_weights"] is True and values["r"] == 8
        again = load(family)
        load_adapter(again, plain_only(folder, tmp_path / f"{family} plain"))
        assert relative_error(logits(again), logits(model)) <= LOGITS_FLOAT32, family
        in_peft = load_in_peft(tiny.model(family), folder)
        assert relative_error(logits(in_peft), logits(model)) <= LOGITS_FLOAT32, family


@pytest.mark.parametrize("init", ["pissa", "olora", "loftq"])
@pytest.mark.parametrize("storage", PACKED_PARAMETERS)
def test_the_difference_of_the_plain_form_on_a_quantized_base_is_told(
    load: Load, tmp_path: Path, storage: str, init: str
) -> None:
    config = {"loftq_config": {"loftq_iter": 2}} if init == "loftq" else {}
    model = saved(load("llama", storage), tmp_path / "a", init, **config)
    plain = load("llama", storage)
    load_adapter(plain, plain_only(tmp_path / "a", tmp_path / "plain"))
    original = load("llama")
    differences = []
    for name, module in attached(model).modules.items():
        norm = original.get_submodule(name).weight.norm()
        other = attached(plain).modules[name].weight
        differences.append(((module.weight - other).norm() / norm).item())
        told = attached(model).start_errors[name].plain_difference
        assert differences[-1] == pytest.approx(told, rel=1e-3)
    assert min(differences) > 1e-3
    card = " ".join((tmp_path / "a" / "README.md").read_text().split())
    assert f"min {100 * min(differences):.3f} %" in card
    assert f"init `{init}`, which changed the base" in card


@pytest.mark.parametrize("storage", PACKED_PARAMETERS)
def test_one_iteration_of_loftq_is_plain_as_it_is(load: Load, tmp_path: Path, storage: str) -> None:
    model = saved(load("llama", storage), tmp_path / "a", "loftq")
    plain = load("llama", storage)
    load_adapter(plain, plain_only(tmp_path / "a", tmp_path / "plain"))
    assert torch.equal(logits(plain), logits(model))
    assert json.loads((tmp_path / "a" / CONFIG).read_text())["r"] == 4
    card = " ".join((tmp_path / "a" / "README.md").read_text().split())
    assert "so load this adapter on that base" in card and "which changed the base" not in card


@pytest.mark.parametrize(("storage", "kind", "init"), VARIANTS)
def test_merged_on_disk(
    folders, load: Load, tmp_path: Path, storage: str, kind: str, init: str
) -> None:
    """Into what it was trained on, and into the original: there goes what training changed."""
    base, adapter = folders["gpt2"], tmp_path / "adapter"
    model = saved(load("gpt2", storage), adapter, init, kind=kind)
    report = merge_folder(base, adapter, tmp_path / "out", quantization=storage)
    assert report.verification.error <= LOGITS_FLOAT32
    if kind != "lora":
        return
    merge_folder(base, adapter, tmp_path / "into", into="original", quantization=storage)
    merged = load_file(tmp_path / "into" / "model.safetensors")
    original = load_file(base / "model.safetensors")
    for name, module in attached(model).modules.items():
        key = next(key for key in merged if key.endswith(f"{name}.weight"))
        start, s = module.kept_start.start, module.adapter.scaling
        trained = module.adapter.lora_B @ module.adapter.lora_A
        change = s * (trained - start.lora_B @ start.lora_A).T
        assert relative_error(merged[key], original[key] + change) <= 1e-5, name


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(
    ("family", "init"), [("llama", "pissa"), ("gpt2", "pissa"), ("llama", "olora")]
)
def test_peft_s_own_adapters_load(
    load: Load, tmp_path: Path, family: str, init: str, kind: str, use_rslora: bool
) -> None:
    """Saved unconverted by PEFT: what it does to the base again when it loads them."""
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        init_lora_weights=init,
        use_dora=kind == "dora",
        use_rslora=use_rslora,
        target_modules=["c_attn", "c_fc"] if family == "gpt2" else ["q_proj", "down_proj"],
        fan_in_fan_out=family == "gpt2",
        task_type="CAUSAL_LM",
    )
    theirs = make_in_peft(tiny.model(family), config)
    save_from_peft(theirs, tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / CONFIG).read_text())["init_lora_weights"] == init
    model = load(family)
    adapter = load_adapter(model, tmp_path / "theirs")
    assert relative_error(logits(model), logits(theirs)) <= LOGITS_FLOAT32
    fresh = attach_init(
        load(family),
        init,
        kind=kind,
        lora_alpha=6,
        use_rslora=use_rslora,
        target_modules=config.target_modules,
    )
    for name, module in adapter.modules.items():
        assert torch.equal(module.kept_start.start.lora_A, fresh.modules[name].adapter.lora_A)
        base = theirs.get_submodule(f"base_model.model.{name}.base_layer").weight
        assert torch.equal(module.base_layer.weight, base.T if family == "gpt2" else base)
    save_adapter(model, tmp_path / "ours")  # converted: every engine gets it right from now on
    back = load_in_peft(tiny.model(family), tmp_path / "ours")
    assert relative_error(logits(back), logits(theirs)) <= LOGITS_FLOAT32


def test_olora_of_peft_s_on_conv1d_is_refused(load: Load, tmp_path: Path) -> None:
    """PEFT 0.21 takes the factors from the transposed weight: only square layers work at all."""
    saved(load("gpt2"), tmp_path / "a", "pissa", target_modules=["attn.c_proj"])
    plain = plain_only(tmp_path / "a", tmp_path / "plain")
    values = json.loads((plain / CONFIG).read_text())
    (plain / CONFIG).write_text(json.dumps(values | {"init_lora_weights": "olora"}))
    with pytest.raises(AdapterError, match=r"'olora' on h?\S*c_proj, a Conv1D"):
        load_adapter(load("gpt2"), plain)


def test_peft_s_own_adapter_is_not_merged_before_its_start_is_known(
    folders, load: Load, tmp_path: Path
) -> None:
    config = peft.LoraConfig(r=4, init_lora_weights="pissa", target_modules=["q_proj"])
    save_from_peft(make_in_peft(tiny.model("llama"), config), tmp_path / "theirs")
    with pytest.raises(AdapterError, match=r"'pissa', which has to be done again"):
        merge_folder(folders["llama"], tmp_path / "theirs", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_without_a_start_leaves_no_older_one_beside_it(
    load: Load, tmp_path: Path
) -> None:
    saved(load("llama"), tmp_path / "a", "pissa")
    model = load("llama")
    attach_adapter(model, LoraConfig(r=4))
    perturb(model)
    save_adapter(model, tmp_path / "a")
    assert not (tmp_path / "a" / OWN).exists()
    again = load("llama")
    load_adapter(again, tmp_path / "a")
    assert torch.equal(logits(again), logits(model))


def test_the_unconverted_folder_can_be_named(load: Load, tmp_path: Path) -> None:
    model = saved(load("llama"), tmp_path / "a", "pissa")
    again = load("llama")
    load_adapter(again, tmp_path / "a" / OWN)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("init", ["pissa", "loftq"])
def test_another_storage_than_in_training_is_refused(load: Load, tmp_path: Path, init: str) -> None:
    """It would be another model: the start is a part of the very weights it was fitted to."""
    saved(load("llama", "nf4"), tmp_path / "a", init)
    plain = plain_only(tmp_path / "a", tmp_path / "plain")
    for other in ("none", "fp4", "int8"):
        model = load("llama", other)
        before = logits(model)
        with pytest.raises(AdapterError, match=r"stored as nf4 \(block size 64, double .*remove"):
            load_adapter(model, tmp_path / "a")
        assert torch.equal(logits(model), before)
        load_adapter(model, plain)


@pytest.mark.parametrize("options", [{"block_size": 32}, {"double_quantization": False}])
def test_other_blocks_than_in_training_are_refused(
    folders: dict[str, Path], load: Load, tmp_path: Path, options: dict[str, object]
) -> None:
    saved(load("llama", "nf4"), tmp_path / "a", "pissa")
    model = load_base(folders["llama"], quantization="nf4", device="cpu", **options)[0]
    with pytest.raises(AdapterError, match="which it would be another model"):
        load_adapter(model, tmp_path / "a")


@pytest.mark.parametrize("storage", ["none", "nf4"])
def test_other_weights_than_in_training_are_refused(
    folders: dict[str, Path], load: Load, tmp_path: Path, storage: str
) -> None:
    saved(load("llama", storage), tmp_path / "a", "pissa")
    other = shutil.copytree(folders["llama"], tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors[f"{UP}.weight"][-1] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    model = load_base(other, quantization=storage, dtype=torch.float32, device="cpu")[0]
    with pytest.raises(AdapterError, match=rf"other weights in 1 layers, such as {UP}"):
        load_adapter(model, tmp_path / "a")


def test_the_same_weights_in_another_dtype_or_place_are_taken(
    folders: dict[str, Path], load: Load, tmp_path: Path
) -> None:
    saved(load("llama"), tmp_path / "a", "pissa")
    elsewhere = shutil.copytree(folders["llama"], tmp_path / "elsewhere")
    model = load_base(elsewhere, quantization="none", dtype=torch.bfloat16, device="cpu")[0]
    assert len(load_adapter(model, tmp_path / "a").starts()) == 14


def test_weights_that_cannot_be_compared_are_said(
    folders: dict[str, Path], load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(load("llama"), tmp_path / "a", "pissa")
    gone = shutil.copytree(folders["llama"], tmp_path / "gone")
    model = load_base(gone, quantization="none", dtype=torch.float32, device="cpu")[0]
    shutil.rmtree(gone)
    load_adapter(model, tmp_path / "a")
    assert "the files of this base are not there to compare" in caplog.text


def edit_form(**changes: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / OWN / own_form.FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_starts(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    """Another start file, with the hash that belongs to it: as somebody hostile would write it."""

    def spoil(folder: Path) -> None:
        path = folder / OWN / own_form.STARTS
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path)
        form = json.loads((folder / OWN / own_form.FILE).read_text())
        form["sha256"][f"{OWN}/{own_form.STARTS}"] = own_form._sha256(path)
        edit_form(**form)(folder)

    return spoil


UP = "model.layers.0.mlp.up_proj"
SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "the plain form of another": (
        lambda f: save_file({"x": torch.ones(1)}, f / TENSORS),
        "adapter_model.safetensors in .* changed after",
    ),
    "no description": (lambda f: (f / OWN / own_form.FILE).unlink(), "unconverted is not whole"),
    "no start": (lambda f: (f / OWN / own_form.STARTS).unlink(), "unconverted is not whole"),
    "half a description": (lambda f: (f / OWN / own_form.FILE).write_text("{"), "is not whole"),
    "a surplus key": (edit_form(magic=1), "is not whole"),
    "a later version": (edit_form(format_version=9), "has format version 9"),
    "an unknown init": (edit_form(init_lora_weights="magic"), "'magic' is not built"),
    "another method": (edit_form(adapter_config={"peft_type": "IA3"}), "peft_type 'IA3'"),
    "another shape": (
        edit_starts(lambda t: t.update({f"{UP}.subtracted_A": torch.ones(5, 32)})),
        "up_proj.subtracted_A are not expected in these shapes",
    ),
    "a lost partner": (edit_starts(lambda t: t.pop(f"{UP}.subtracted_B")), "lack their partner"),
    "another layer": (
        edit_starts(lambda t: t.update({"lm_head.start_A": torch.ones(4, 32)})),
        "lm_head.start_A",
    ),
    "nan": (edit_starts(lambda t: t[f"{UP}.subtracted_A"].fill_(float("nan"))), "NaN or infinite"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_form_is_refused(load: Load, tmp_path: Path, case: str) -> None:
    spoil, expected = SPOILED[case]
    saved(load("llama"), tmp_path / "a", "pissa")
    spoil(tmp_path / "a")
    model = load("llama")
    before = logits(model)
    with pytest.raises(AdapterError, match=f"(?s){expected}"):
        load_adapter(model, tmp_path / "a")
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("num_writes", range(6))
def test_a_crash_leaves_no_mixture(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_writes: int
) -> None:
    """The disk fills up before each of the six files of a second save."""
    folder = tmp_path / "a"
    model = saved(load("llama"), folder, "pissa")
    before = logits(model)
    perturb(model, seed=9)
    left, write_atomically = iter(range(num_writes)), saving.write_atomically

    def fill_up(path: Path, content: bytes) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_atomically(path, content)

    monkeypatch.setattr(saving, "write_atomically", fill_up)
    monkeypatch.setattr(own_form, "write_atomically", fill_up)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(model, folder)
    again = load("llama")
    if num_writes == 5:  # all but the plain config, which is the same
        load_adapter(again, folder)
        assert torch.equal(logits(again), logits(model)) and not torch.equal(logits(model), before)
    else:
        with pytest.raises(AdapterError, match="is not whole"):
            load_adapter(again, folder)


def test_every_kind_is_converted() -> None:
    assert {kind for _, _, kind, _ in every_variant()} == {kind for _, kind, _ in EVERY_VARIANT}
