"""Other forms of an adapter: exact where they can be, with their true error where not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from lorakit.adapters.arithmetic.convert import convert_adapter
from lorakit.adapters.arithmetic.dora import Base, best_approximation
from lorakit.adapters.arithmetic.made import Limit
from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.load import load_base
from lorakit.base.write_quantized import PackSettings, quantize_folder
from lorakit.cli import main
from lorakit.errors import AdapterError, InputError, ModelError
from lorakit.recipe import LoraConfig
from tests import tiny
from tests.adapters.arithmetic.made_by_peft import TENSORS, VARIANTS, Variant, base, deltas, make
from tests.adapters.bases import logits, perturb
from tests.adapters.peers import load_in_peft, make_in_peft, save_from_peft
from tests.tolerances import LOGITS_FLOAT32, relative_error

EXACT = 1e-6


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("to", ["lora", "rslora"])
def test_scaling_conventions_are_the_same_function(tmp_path: Path, name: str, to: str) -> None:
    variant = VARIANTS[name]
    folder = make(variant, tmp_path / "in")
    written = convert_adapter(folder, tmp_path / "out", to=to)
    expected, found = (deltas(variant.family, f) for f in (folder, tmp_path / "out"))
    assert found.keys() == expected.keys()
    for key in expected:
        assert relative_error(found[key], expected[key]) <= EXACT, key
    values = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert values["use_rslora"] is (to == "rslora")
    assert list(values) == sorted(values)
    if name not in ("experts", "higher than the layer"):
        before, after = (load_file(f / TENSORS) for f in (folder, tmp_path / "out"))
        assert before.keys() == after.keys() and written.error == 0
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_conversion_there_and_back_keeps_the_scaling(tmp_path: Path) -> None:
    folder = make(VARIANTS["rslora with patterns"], tmp_path / "in")
    convert_adapter(folder, tmp_path / "lora", to="lora")
    convert_adapter(tmp_path / "lora", tmp_path / "back", to="rslora")
    one, two = (load_adapter(base("qwen2"), f) for f in (folder, tmp_path / "back"))
    for name, facts in one.adapted.items():
        assert two.adapted[name].r == facts.r
        assert two.adapted[name].scaling == pytest.approx(facts.scaling, rel=1e-14)


@pytest.mark.parametrize("name", ["patterns", "rslora", "conv1d", "embedding", "experts"])
def test_a_cut_says_its_true_error_and_is_the_best_there_is(tmp_path: Path, name: str) -> None:
    variant = VARIANTS[name]
    folder = make(variant, tmp_path / "in")
    exact = deltas(variant.family, folder)
    errors = []
    for rank in (1, 2, 3, 8):
        out = tmp_path / f"rank{rank}"
        written = convert_adapter(folder, out, to="lora", rank=rank)
        found = deltas(variant.family, out)
        best_total = total = 0.0
        for key, delta in exact.items():
            tail = np.linalg.svd(delta.numpy(), compute_uv=False)[..., rank:]
            best, own = float(np.linalg.norm(tail)), float((found[key] - delta).norm())
            assert own == pytest.approx(best, abs=1e-6 * float(delta.norm())), (key, rank)
            best_total, total = best_total + best**2, total + float(delta.norm()) ** 2
        assert written.error == pytest.approx((best_total / total) ** 0.5, abs=EXACT)
        errors.append(written.error)
    assert errors == sorted(errors, reverse=True) and errors[-1] < EXACT


@pytest.mark.parametrize("max_error", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("name", ["patterns", "experts"])
def test_a_cut_by_error_keeps_the_error_with_the_least_rank(
    tmp_path: Path, name: str, max_error: float
) -> None:
    variant = VARIANTS[name]
    folder = make(variant, tmp_path / "in")
    written = convert_adapter(folder, tmp_path / "out", to="lora", max_error=max_error)
    exact, found = (deltas(variant.family, f) for f in (folder, tmp_path / "out"))
    for key, delta in exact.items():
        assert relative_error(found[key], delta) <= max_error + EXACT, key
    if name == "patterns":
        for layer, made in written.layers.items():
            values = np.linalg.svd(exact[layer].numpy(), compute_uv=False)
            fewer = np.linalg.norm(values[made.change.rank - 1 :]) / np.linalg.norm(values)
            assert made.change.rank == 1 or fewer > max_error
    assert f"relative error of at most {max_error:g}" in written.method


def test_a_real_adapter_is_cut_as_numpy_would_cut_it(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "adapters" / "gpt2-tigrinya-lora"
    written = convert_adapter(folder, tmp_path / "out", to="rslora", rank=4)
    before, after = (load_file(f / TENSORS) for f in (folder, tmp_path / "out"))
    for layer in ("transformer.h.0.attn.c_proj", "transformer.h.11.attn.c_proj"):
        b, a = (before[f"base_model.model.{layer}.lora_{x}.weight"].double() for x in "BA")
        cut_b, cut_a = (after[f"base_model.model.{layer}.lora_{x}.weight"].double() for x in "BA")
        exact = 32 / 8 * b @ a
        own = relative_error(cut_b @ cut_a, exact)
        values = np.linalg.svd(exact.numpy(), compute_uv=False)
        best = float(np.linalg.norm(values[4:]) / np.linalg.norm(values))
        assert own == pytest.approx(best, rel=1e-5)
        assert own == pytest.approx(written.layers[layer].relative_error, rel=1e-9)
    assert 0.05 < written.error < 0.2


MOVING = {
    "pissa": Variant({"r": 4, "lora_alpha": 6, "init_lora_weights": "pissa"}),
    "pissa_niter": Variant({"r": 4, "init_lora_weights": "pissa_niter_4"}),
    "olora": Variant({"r": 4, "lora_alpha": 6, "init_lora_weights": "olora"}),
    "pissa, rslora": Variant({"r": 4, "init_lora_weights": "pissa", "use_rslora": True}),
    "pissa, rslora, patterns": Variant(
        {
            "r": 4,
            "init_lora_weights": "pissa",
            "use_rslora": True,
            "rank_pattern": {"up_proj": 3},
            "alpha_pattern": {"q_proj": 5},
        }
    ),
}


@pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA with rank_pattern")
@pytest.mark.parametrize("name", MOVING)
def test_an_init_that_moved_the_base_becomes_plain(tmp_path: Path, name: str) -> None:
    """The last one PEFT 0.21.2 refuses to convert itself."""
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj", "up_proj"], **MOVING[name].options
    )
    model = make_in_peft(base("qwen2"), config, size=0.0)
    save_from_peft(model, tmp_path / "start")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    save_from_peft(model, tmp_path / "end")
    written = convert_adapter(
        tmp_path / "end", tmp_path / "out", to="lora", initial=tmp_path / "start"
    )
    assert {made.change.rank for made in written.layers.values()} <= {6, 8}
    plain = load_in_peft(base("qwen2"), tmp_path / "out")
    assert relative_error(logits(plain), logits(model)) <= LOGITS_FLOAT32
    ours = base("qwen2")
    load_adapter(ours, tmp_path / "out")
    assert relative_error(logits(ours), logits(model)) <= LOGITS_FLOAT32
    with pytest.raises(AdapterError, match=r"changes the base when it .*--initial DIR"):
        convert_adapter(tmp_path / "end", tmp_path / "none", to="lora")
    other = make(VARIANTS["plain"], tmp_path / "other")
    with pytest.raises(AdapterError, match="does not adapt the layers"):
        convert_adapter(tmp_path / "end", tmp_path / "none", to="lora", initial=other)


@pytest.mark.parametrize("init", ["loftq", "pissa_x", "pissa_niter_", "something", ["pissa"]])
def test_initial_is_for_inits_whose_factors_tell_the_change(tmp_path: Path, init: object) -> None:
    """LoftQ fits the base again when it is loaded: what it was is in no factor."""
    folder = make(VARIANTS["plain"], tmp_path / "in")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": init}))
    for initial in (None, folder):
        with pytest.raises(AdapterError, match="possible with initial are pissa, pissa_niter_N, o"):
            convert_adapter(folder, tmp_path / "out", initial=initial)
    command = ["adapter", "convert", str(folder), "--to", "lora", "--initial", str(folder)]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def dora_on(folder: Path, to: Path, *, quantization: str, **config: object) -> PreTrainedModel:
    """A model with a DoRA, saved in `to`."""
    model, _ = load_base(folder, quantization=quantization, dtype=torch.float32, device="cpu")
    attach_adapter(model, LoraConfig(**({"r": 3, "use_dora": True} | config)))
    perturb(model)
    save_adapter(model, to)
    return model


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_dora_on_a_packed_checkpoint_becomes_a_lora(tmp_path: Path, family: str) -> None:
    quantize_folder(tiny.folder(tmp_path / "base", family), tmp_path / "p", PackSettings("nf4"))
    model = dora_on(tmp_path / "p", tmp_path / "dora", quantization="checkpoint")
    command = ["adapter", "convert", str(tmp_path / "dora"), "--to", "lora", "--rank", "32"]
    command += ["--base", str(tmp_path / "p"), "--output", str(tmp_path / "out")]
    assert main(command) == 0  # as its files are stored
    plain, _ = load_base(
        tmp_path / "p", quantization="checkpoint", dtype=torch.float32, device="cpu"
    )
    load_adapter(plain, tmp_path / "out")
    assert relative_error(logits(plain), logits(model)) <= LOGITS_FLOAT32
    wrong = Base(tmp_path / "p", quantization="nf4")
    with pytest.raises(ModelError, match="checkpoint"):
        convert_adapter(tmp_path / "dora", tmp_path / "none", rank=4, base=wrong)


def test_a_dora_of_a_tied_head_becomes_a_lora(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "base", "llama", tie_word_embeddings=True)
    targets = {"target_modules": ["lm_head", "q_proj"]}
    model = dora_on(folder, tmp_path / "dora", quantization="none", **targets)
    convert_adapter(tmp_path / "dora", tmp_path / "out", rank=32, base=Base(folder))
    plain, _ = load_base(folder, quantization="none", dtype=torch.float32, device="cpu")
    load_adapter(plain, tmp_path / "out")
    assert relative_error(logits(plain), logits(model)) <= LOGITS_FLOAT32


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_dora_becomes_the_best_lora(tmp_path: Path, family: str, quantization: str) -> None:
    folder = tiny.folder(tmp_path / "base", family)
    model, _ = load_base(folder, quantization=quantization, block_size=32, device="cpu")
    adapter = attach_adapter(model, LoraConfig(r=3, use_dora=True, use_rslora=True))
    before = {name: m.base_layer.weight.double() for name, m in adapter.modules.items()}
    perturb(model)
    save_adapter(model, tmp_path / "dora")
    weights = Base(folder, quantization=quantization, block_size=32)
    for rank in (2, 32):
        out = tmp_path / f"rank{rank}"
        written = convert_adapter(tmp_path / "dora", out, to="lora", rank=rank, base=weights)
        total = best_total = 0.0
        for name, module in adapter.modules.items():
            kind = module.adapter.double()
            delta = (kind.merged_weight(before[name]) - before[name]).detach()
            values = np.linalg.svd(delta.numpy(), compute_uv=False)
            best = float(np.linalg.norm(values[rank:]))
            assert written.layers[name].error == pytest.approx(best, abs=1e-6 * float(delta.norm()))
            total, best_total = total + float(delta.norm()) ** 2, best_total + best**2
        assert written.error == pytest.approx((best_total / total) ** 0.5, abs=EXACT)
    # The rank of these layers: nothing is lost, so the function is the same.
    plain, _ = load_base(folder, quantization=quantization, block_size=32, device="cpu")
    load_adapter(plain, tmp_path / "rank32")
    assert relative_error(logits(plain), logits(model)) <= LOGITS_FLOAT32


def test_a_low_rank_of_a_large_change_is_found_without_its_whole_svd() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(300, 500, generator=generator).double()
    u, s, vt = torch.linalg.svd(wide, full_matrices=False)
    change = u @ torch.diag(s * torch.arange(1, 301).double() ** -0.3) @ vt
    for rank in (1, 8, 40):
        found = best_approximation(change, Limit(rank=rank))
        best = float(torch.linalg.svdvals(change)[rank:].norm())
        own = float((change - found.up[0] @ found.down[0]).norm())
        assert best <= own <= 1.001 * best
        again = best_approximation(change, Limit(rank=rank))
        assert torch.equal(found.up, again.up)


REFUSED: dict[str, tuple[str, dict[str, object], type[Exception], str]] = {
    "a dora without base": ("dora", {"rank": 4}, AdapterError, "has full rank and depends on the"),
    "a dora without rank": ("dora", {"base": Base("b")}, AdapterError, "--base MODEL --rank N"),
    "a base for a lora": ("plain", {"base": Base("b")}, InputError, "is no DoRA"),
    "a start for a lora": ("plain", {"initial": "."}, InputError, "leaves the base alone"),
    "an unknown form": ("plain", {"to": "loha"}, InputError, "to 'loha' is not possible"),
    "a wrong base": ("dora", {"rank": 4, "base": "other"}, AdapterError, "is .* in the base"),
    "no base": ("dora", {"rank": 4, "base": Base("./no-such")}, InputError, "nor a hub id"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused(tmp_path: Path, name: str) -> None:
    kind, options, error, expected = REFUSED[name]
    changes = {"use_dora": True} if kind == "dora" else {}
    folder = make(VARIANTS["plain"], tmp_path / "in", **changes)
    options = {"to": "lora"} | options
    if "initial" in options:
        options["initial"] = folder
    if options.get("base") == "other":
        options["base"] = Base(tiny.folder(tmp_path / "other", "qwen2", hidden_size=48))
    with pytest.raises(error, match=f"(?s){expected}"):
        convert_adapter(folder, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
