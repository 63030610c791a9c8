"""The three merges, for every kind, init and storage: faithful, into the original, packed once."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorakit.adapters.attach import adapter_disabled, attach_adapter, attached
from lorakit.adapters.store import save_adapter
from lorakit.base.code_values import MARK
from lorakit.base.load import load_base
from lorakit.base.quantization_config import CHECKPOINT
from lorakit.base.storages import storage
from lorakit.base.write_quantized import QUANTIZATIONS, PackSettings, quantize_folder
from lorakit.cli.merge import show_merge
from lorakit.errors import AdapterError, ModelError, VerificationError
from lorakit.recipe import LoraConfig
from lorakit.ship.merge import merge
from lorakit.ship.merge_folder import MergeReport, merge_folder
from lorakit.ship.verify import difference
from lorakit.ship.weight_change import layer_change
from tests import families, tiny
from tests.adapters.bases import (
    INITS,
    KINDS,
    PART_OF_BASE,
    STORAGES,
    Load,
    attach_init,
    folder_of,
    logits,
    perturb,
)
from tests.base import bitsandbytes_peer as peer
from tests.tolerances import LOGITS_FLOAT32, MERGE_BFLOAT16, RETAINED, relative_error

DELTAS = (0.005, 0.01, 0.02, 0.05)
# (storage, kind, init) of everything that can be trained.
VARIANTS = [
    (storage, kind, init)
    for storage in STORAGES
    for kind in KINDS
    for init in INITS
    if not (init == "loftq" and storage == "none")
    and not (init in PART_OF_BASE and storage == CHECKPOINT)
]
FAST = [(storage, "dora", True) for storage in STORAGES] + [("nf4", "lora", "pissa")]
ON_DISK = [
    variant if variant in FAST else pytest.param(*variant, marks=pytest.mark.slow)
    for variant in VARIANTS
]


def state_sha256(model: PreTrainedModel) -> str:
    """Of all bytes that do not train."""
    trained = {id(parameter) for parameter in attached(model).parameters().values()}
    digest = hashlib.sha256()
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in trained:
            data = tensor.detach().contiguous().reshape(-1)
            digest.update(data.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("storage", "kind", "init"), VARIANTS)
def test_merges_in_memory(load: Load, storage: str, kind: str, init: bool | str) -> None:
    """The faithful one computes what base and adapter do; into the original goes what training
    changed since the start; neither touches the base, and both can be repeated."""
    model = load("llama", storage)
    attach_init(model, init, kind=kind, lora_alpha=6)
    with adapter_disabled(model):
        started = logits(model)
    # Without an init B is not zero.
    is_untouched = storage != CHECKPOINT and init is not False
    untrained = merge(model, into="original") if is_untouched else None
    perturb(model)
    adapted, before = logits(model), state_sha256(model)
    merged = merge(model)
    assert relative_error(logits(merged), adapted) <= LOGITS_FLOAT32
    again = dict(merge(model).named_parameters())
    assert all(torch.equal(p, again[name]) for name, p in merged.named_parameters())
    if untrained is not None:
        # What was not trained changes nothing, whatever was taken out of the base.
        original = dict(load("llama").named_parameters())
        for name, parameter in untrained.named_parameters():
            assert relative_error(parameter, original[name]) <= 1e-6, name
    if storage == CHECKPOINT:
        with pytest.raises(AdapterError, match=r"holds .* quantized; possible"):
            merge(model, into="original")
    else:
        in_original = logits(merge(model, into="original"))
        error = relative_error(in_original, adapted)
        # A dense base holds the original weights, but for what an init took out of them.
        assert (error <= LOGITS_FLOAT32) == (storage == "none")
        assert error < relative_error(started, adapted)
    assert torch.equal(logits(model), adapted) and state_sha256(model) == before


@pytest.mark.parametrize(("storage", "kind", "init"), VARIANTS)
def test_the_faithful_merge_in_bfloat16(
    load: Load, storage: str, kind: str, init: bool | str
) -> None:
    model = load("llama", storage, torch.bfloat16)
    attach_init(model, init, kind=kind)
    perturb(model)
    assert difference(logits(merge(model)), logits(model)) <= MERGE_BFLOAT16


def saved(
    base: Path, folder: Path, storage: str = "none", size: float = 0.02, **config: object
) -> PreTrainedModel:
    """A base with a perturbed adapter, saved in `folder`."""
    model, _ = load_base(base, quantization=storage, dtype=torch.float32, device="cpu")
    attach_init(model, config.pop("init", True), **config)
    perturb(model, size)
    save_adapter(model, folder)
    return model


@pytest.mark.parametrize(("storage", "kind", "init"), ON_DISK)
def test_merges_on_disk(
    folders, tmp_path: Path, capsys, storage: str, kind: str, init: bool | str
) -> None:
    """The faithful merge is held to its bound, the two others print their difference."""
    base = folder_of(folders, "gpt2", storage)
    original = {"original": folders["gpt2"]} if storage == CHECKPOINT else {}
    model = saved(base, tmp_path / "adapter", storage, init=init, kind=kind, lora_alpha=6)

    def merged(name: str, **options: object) -> MergeReport:
        output = tmp_path / name
        return merge_folder(base, tmp_path / "adapter", output, quantization=storage, **options)

    report = merged("faithful")
    assert report.verification.error <= LOGITS_FLOAT32 and report.weights is None
    report = merged("original", into="original", **original)
    assert report.verification.bound is None and report.weights is not None
    if storage != CHECKPOINT:
        written = load_file(tmp_path / "original" / "model.safetensors")
        in_memory = merge(model, into="original").state_dict()
        assert all(relative_error(t, in_memory[name]) <= 1e-6 for name, t in written.items())
    exact = storage == "none"
    assert (report.weights.total.relative_difference < 1e-6) == exact
    show_merge(report)
    report = merged("packed", quantize=PackSettings("nf4"), **original)
    total = report.weights.total
    assert 0.08 < total.relative_noise < 0.1
    assert abs(total.retained - 1) <= RETAINED + 4 * total.standard_error
    assert set(report.weights.layers) >= {f"{name}.weight" for name in attached(model).adapted}
    show_merge(report)
    told = capsys.readouterr().out
    assert told.count("from base + adapter, most in transformer.h.") == 2
    assert told.count("of that is in what was written (standard error") == 2
    assert ("the adapter was trained on those in" in told) == (not exact)
    assert (f"init {init}: what went into them" in told) == (init in PART_OF_BASE)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_packed_merge_loads_in_transformers_with_bitsandbytes(
    folders, tmp_path: Path, quantization: str
) -> None:
    saved(folders["llama"], tmp_path / "adapter", "nf4", modules_to_save=["lm_head"])
    report = merge_folder(
        folders["llama"],
        tmp_path / "adapter",
        tmp_path / "out",
        quantize=PackSettings(quantization),
        quantization="nf4",
    )
    assert (report.into, report.quantize) == ("original", quantization)
    output = tmp_path / "out"
    ours, _ = load_base(output, quantization=CHECKPOINT, dtype=torch.float32, device="cpu")
    theirs = peer.dense_weights(peer.load(output))
    assert len(theirs) == 14
    for name, weight in theirs.items():
        assert torch.equal(ours.get_submodule(name).weight, weight), name
    trained = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    head = trained["base_model.model.lm_head.weight"]
    assert torch.equal(ours.lm_head.weight, head)


def test_experts_merge_in_all_three_ways(tmp_path: Path) -> None:
    """The checkpoint has every expert by itself; in memory, and for the adapter, they are fused."""
    base = families.folder(tmp_path / "base", "mixtral")
    model = saved(base, tmp_path / "adapter", "nf4")
    adapted = attached(model).adapted
    assert any("experts" in name for name in adapted)

    def merged(name: str, **options: object) -> MergeReport:
        output = tmp_path / name
        return merge_folder(base, tmp_path / "adapter", output, quantization="nf4", **options)

    assert merged("faithful").verification.error <= LOGITS_FLOAT32
    reports = merged("original", into="original"), merged("packed", quantize=PackSettings("nf4"))
    for report in reports:
        assert sum("experts" in name for name in report.weights.layers) == 4
        total = report.weights.total
        assert abs(total.retained - 1) <= RETAINED + 4 * total.standard_error
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "original").state_dict()
    for name, tensor in merge(model, into="original").state_dict().items():
        assert relative_error(plain[name], tensor) <= 1e-6, name


def wide_base(folder: Path, hidden: int) -> Path:
    """A model of one layer, 16 * hidden^2 weights in its linear layers, normally distributed."""
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 1}
    return tiny.folder(
        folder, vocab_size=400, hidden_size=hidden, intermediate_size=4 * hidden, **sizes
    )


def adapter_of_size(base: Path, folder: Path, delta: float) -> None:
    """A random rank-16 adapter whose change is `delta` times each weight, in norm."""
    model, _ = load_base(base, dtype=torch.float32, device="cpu")
    adapter = attach_adapter(model, LoraConfig(r=16, lora_alpha=16))
    generator = torch.Generator().manual_seed(0)
    for module in adapter.modules.values():
        kind = module.adapter
        with torch.no_grad():
            kind.lora_A.copy_(torch.randn(kind.lora_A.shape, generator=generator))
            kind.lora_B.copy_(torch.randn(kind.lora_B.shape, generator=generator))
            # ||B A||^2 = tr(B^T B A A^T)
            square = ((kind.lora_B.T @ kind.lora_B) * (kind.lora_A @ kind.lora_A.T)).sum()
            kind.lora_B.mul_(delta * module.base_layer.weight.norm() / square.sqrt())
    save_adapter(model, folder)


def packed_merge(folder: Path, hidden: int, delta: float, quantization: str) -> MergeReport:
    base = wide_base(folder / "base", hidden)
    adapter_of_size(base, folder / "adapter", delta)
    settings = PackSettings(quantization)
    return merge_folder(
        base, folder / "adapter", folder / "out", quantize=settings, quantization="nf4"
    )


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("delta", DELTAS)
def test_a_packed_merge_keeps_what_was_trained(
    tmp_path: Path, delta: float, quantization: str
) -> None:
    total = packed_merge(tmp_path, 128, delta, quantization).weights.total
    assert total.relative_change == pytest.approx(delta, rel=1e-3)
    assert abs(total.retained - 1) <= RETAINED + 4 * total.standard_error
    assert total.standard_error < 0.06


@pytest.mark.parametrize(
    "delta", [0.01, *(pytest.param(d, marks=pytest.mark.slow) for d in DELTAS if d != 0.01)]
)
def test_a_packed_merge_of_16_million_weights_keeps_it_to_a_percent(
    tmp_path: Path, delta: float
) -> None:
    report = packed_merge(tmp_path, 1024, delta, "nf4")
    weights = report.weights.layers
    shapes = load_file(tmp_path / "base" / "model.safetensors")
    assert sum(shapes[name].numel() for name in weights) >= 16e6
    assert report.weights.total.retained == pytest.approx(1, abs=RETAINED)


def random_change(delta: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(512, 512, generator=generator)
    low = torch.randn(512, 16, generator=generator) @ torch.randn(16, 512, generator=generator)
    return weight, delta * low * weight.norm() / low.norm()


def nf4(weight: torch.Tensor) -> torch.Tensor:
    packed = storage("nf4").pack(weight, block_size=64, double_quantization=True)
    return packed.dequantize()


def test_codes_that_are_packed_again_lose_a_small_change() -> None:
    """Why a merge into live 4-bit codes, which is PEFT's, does not exist here."""
    weight, change = random_change(0.01)
    for started, least, most in ((nf4(weight), 0, 0.03), (weight, 0.97, 1.03)):
        after = started + change
        sums = layer_change(nf4(after), after, started, after, nf4)
        assert least < sums.retained < most
        # Against W, without what packing does to it, in exact arithmetic.
        plain = ((nf4(after) - started).double() * change).sum() / change.double().square().sum()
        assert plain == pytest.approx(sums.retained, abs=0.05)


def test_a_change_along_the_weight_is_not_mistaken_for_a_loss() -> None:
    """NF4 is equivariant: 1.005 W becomes 1.005 times what W becomes."""
    weight, _ = random_change(0)
    after = 1.005 * weight
    sums = layer_change(nf4(after), after, weight, after, nf4)
    assert sums.retained == pytest.approx(1, abs=0.05)


def test_the_sums_are_what_they_say() -> None:
    weight, change = random_change(0.02)
    after, written = weight + change, nf4(weight + change)
    sums = layer_change(written, weight, weight, after, nf4)
    exact = {
        "relative_difference": (written - weight).double().norm() / weight.double().norm(),
        "relative_noise": (written - after).double().norm() / after.double().norm(),
        "relative_change": (after - weight).double().norm() / weight.double().norm(),
        "retained": ((written - nf4(weight)).double() * (after - weight)).sum()
        / (after - weight).double().square().sum(),
    }
    for name, value in exact.items():
        assert getattr(sums, name) == pytest.approx(float(value), rel=1e-4), name
    none = layer_change(weight, weight, weight, weight, nf4)
    assert none.retained is None and none.standard_error is None
    assert not math.isnan(none.relative_difference)


def test_a_base_on_code_points_is_refused_by_measurement(folders, tmp_path: Path) -> None:
    """A faithful merge looks like any 16-bit model: nothing but its weights says what it was."""
    saved(folders["llama"], tmp_path / "first", "nf4", size=0.0, target_modules=["q_proj"])
    merge_folder(folders["llama"], tmp_path / "first", tmp_path / "codes", quantization="nf4")
    saved(tmp_path / "codes", tmp_path / "second", size=0.002, target_modules=["down_proj"])
    with pytest.raises(VerificationError, match=r"hold \d+\.\d% of what training changed"):
        merge_folder(
            tmp_path / "codes", tmp_path / "second", tmp_path / "out", quantize=PackSettings("nf4")
        )
    assert not (tmp_path / "out").exists()


def test_a_faithful_merge_is_not_quantized_again(folders, tmp_path: Path) -> None:
    base, output = folders["llama"], tmp_path / "out"
    saved(base, tmp_path / "adapter", "nf4", size=0.0005)
    report = merge_folder(base, tmp_path / "adapter", tmp_path / "merged", quantization="nf4")
    assert report.codes == "nf4"
    with pytest.raises(ModelError, match="merged into the dequantized weights of a base in 'nf4'"):
        quantize_folder(tmp_path / "merged", output, PackSettings("fp4"))
    # A model on top of it is one as well.
    saved(tmp_path / "merged", tmp_path / "second", size=0.0)
    merge_folder(tmp_path / "merged", tmp_path / "second", tmp_path / "merged twice")
    with pytest.raises(ModelError, match="rounds the adapter away"):
        quantize_folder(tmp_path / "merged twice", output, PackSettings("nf4"))
    # Without the mark the weights tell.
    (tmp_path / "merged" / MARK).unlink()
    with pytest.raises(ModelError, match=r"of 14 of 14 layers by at most .* lie on the values"):
        quantize_folder(tmp_path / "merged", output, PackSettings("nf4"))
    assert not output.exists()
    allowed = quantize_folder(
        tmp_path / "merged", output, PackSettings("nf4"), allow_lost_adapter=True
    )
    assert allowed.mean_error < 0.03


@pytest.mark.parametrize(
    ("storage", "init", "codes"),
    [("nf4", "pissa", None), ("none", True, None), (CHECKPOINT, True, "nf4"), ("fp4", True, "fp4")],
)
def test_the_hint_about_codes_follows_the_weights(
    folders, tmp_path: Path, capsys, storage: str, init: bool | str, codes: str | None
) -> None:
    """An init that takes a part out of the base leaves weights beside all codes."""
    base = folder_of(folders, "llama", storage)
    saved(base, tmp_path / "adapter", storage, init=init)
    report = merge_folder(base, tmp_path / "adapter", tmp_path / "out", quantization=storage)
    show_merge(report)
    told = capsys.readouterr().out
    assert report.codes == codes
    assert ("lie on the values of" in told) == (codes is not None)
    assert ("--original MODEL" in told) == (storage == CHECKPOINT)
    if codes is None:
        packed = quantize_folder(tmp_path / "out", tmp_path / "packed", PackSettings("nf4"))
        assert packed.mean_error > 0.05


def test_weights_that_codes_hold_exactly_are_packed(tmp_path: Path) -> None:
    """Ternary models lie on codes too, and lose nothing."""
    folder = tiny.folder(tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    ternary = {n: t.sign() * 0.02 if t.dim() == 2 else t for n, t in tensors.items()}
    save_file(ternary, folder / "model.safetensors", {"format": "pt"})
    report = quantize_folder(folder, tmp_path / "out", PackSettings("nf4"))
    assert report.mean_error < 1e-6


REFUSED = {
    "codes into codes": (
        {"into": "dequantized", "quantize": PackSettings("nf4"), "quantization": "fp4"},
        "rounds a change of a few percent or less away",
    ),
    "no original": ({"into": "original", "quantization": CHECKPOINT}, "holds no original weights"),
    "packed without an original": (
        {"quantize": PackSettings("int8"), "quantization": CHECKPOINT},
        "holds no original weights",
    ),
    "an original of an unquantized base": ({"original": "x"}, "cannot take effect"),
    "an original that is not merged into": (
        {"original": "x", "into": "dequantized", "quantization": CHECKPOINT},
        "cannot take effect",
    ),
    "a second dtype": ({"quantize": PackSettings(dtype=torch.float16)}, "dtype of its own"),
    "another place": ({"into": "codes"}, "into 'codes'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused(folders, tmp_path: Path, case: str) -> None:
    options, expected = REFUSED[case]
    with pytest.raises(AdapterError, match=expected):
        merge_folder(folders["llama"], tmp_path / "adapter", tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises(AdapterError, match="into 'codes'"):
        merge(tiny.model("llama"), into="codes")


def test_an_original_that_is_quantized_itself_is_refused(folders, tmp_path: Path) -> None:
    base = folder_of(folders, "llama", CHECKPOINT)
    saved(base, tmp_path / "adapter", CHECKPOINT)
    with pytest.raises(ValueError, match="stored in nf4"):
        merge_folder(
            base, tmp_path / "adapter", tmp_path / "out", quantization=CHECKPOINT, original=base
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_another_original_is_refused(folders, tmp_path: Path, quantization: str) -> None:
    packed = tmp_path / "packed"
    quantize_folder(folders["llama"], packed, PackSettings(quantization))
    saved(packed, tmp_path / "adapter", CHECKPOINT, target_modules=["q_proj"])

    def merged(original: Path) -> MergeReport:
        output = tmp_path / "out"
        return merge_folder(
            packed, tmp_path / "adapter", output, quantization=CHECKPOINT, original=original
        )

    tuned = tiny.model("llama")
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.03 * parameter.std() * torch.randn(parameter.shape))
    tuned.save_pretrained(tmp_path / "tuned")
    others = {
        "seed": (tiny.folder(tmp_path / "seed", seed=9), "is not the model that .* packed from"),
        "tuned": (tmp_path / "tuned", "is not the model that .* packed from"),
        "shape": (tiny.folder(tmp_path / "shape", intermediate_size=96), r"\(32, 96\) instead"),
        "depth": (tiny.folder(tmp_path / "depth", num_hidden_layers=3), "instead of none"),
    }
    for other, expected in others.values():
        with pytest.raises(ModelError, match=expected):
            merged(other)
    assert not (tmp_path / "out").exists()
    assert merged(folders["llama"]).into == "original"


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_faithful_merge_of_a_checkpoint_has_the_dtype_it_was_packed_from(
    tmp_path: Path, quantization: str
) -> None:
    base, packed, output = tmp_path / "base", tmp_path / "packed", tmp_path / "out"
    tiny.model("llama").to(torch.bfloat16).save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    quantize_folder(base, packed, PackSettings(quantization))
    saved(packed, tmp_path / "adapter", CHECKPOINT, target_modules=["q_proj"])
    report = merge_folder(
        packed,
        tmp_path / "adapter",
        output,
        quantization=CHECKPOINT,
        base_dtype=torch.float32,
    )
    assert report.verification.dtype == torch.float32
    dtypes = {tensor.dtype for tensor in load_file(output / "model.safetensors").values()}
    assert dtypes == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(output).dtype == torch.bfloat16
    # Its scales are float32, and no weights.
    arguments = {"quantization": CHECKPOINT, "max_shard_size": "1GB"}
    report = merge_folder(packed, tmp_path / "adapter", tmp_path / "again", **arguments)
    assert report.verification.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_thousand_switches_leave_every_byte_of_the_base(
    load: Load, storage: str, kind: str
) -> None:
    model = load("llama", storage)
    attach_adapter(model, LoraConfig(kind=kind, r=4, bias="none"))
    perturb(model)
    with adapter_disabled(model):
        disabled = logits(model)
    adapted, before = logits(model), state_sha256(model)
    for cycle in range(1000):
        with adapter_disabled(model):
            if cycle % 100 == 0:
                assert torch.equal(logits(model), disabled)
        if cycle % 100 == 0:
            assert torch.equal(logits(model), adapted)
        if cycle % 500 == 0:
            merge(model)
    assert state_sha256(model) == before
    assert torch.equal(logits(model), adapted)
