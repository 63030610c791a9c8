"""Inits that are part of the base: what they leave in it, what "disabled" means, and their errors.

W is the original weight, Q the stored one, s the scaling.
"""

from __future__ import annotations

import logging
import pkgutil
import shutil
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters import inits
from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.dense_layers import dense_layers
from lorakit.adapters.low_rank import randomized_svd, start_from, start_tensors
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.load import load_base
from lorakit.base.offload import DiskWeight, HostWeight
from lorakit.base.quantization_config import CHECKPOINT
from lorakit.base.storages import storage as storage_named
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from lorakit.ship.merge import merge
from tests import tiny
from tests.adapters.bases import (
    FAST_STORAGES,
    PART_OF_BASE,
    STARTING_AT_BASE,
    Load,
    attach_init,
    logits,
    mostly_slow,
    perturb,
    variants_with_inits,
)
from tests.tolerances import IDENTITY, LOGITS_FLOAT32, relative_error

EVERY_VARIANT = [v for v in variants_with_inits() if v[2] in PART_OF_BASE]
PACKED = sorted({storage for storage, _, _ in EVERY_VARIANT} - {"none"})
VARIANTS = mostly_slow(EVERY_VARIANT)
PACKED_PARAMETERS = [
    pytest.param(s, marks=[] if s in FAST_STORAGES else pytest.mark.slow) for s in PACKED
]


def dense_weight(model: PreTrainedModel, name: str) -> torch.Tensor:
    """(O, I) of a layer of a dense base."""
    layer = model.get_submodule(name)
    return layer.weight.t() if type(layer).__name__ == "Conv1D" else layer.weight


def test_the_inits_that_are_part_of_the_base_are_tested(load: Load) -> None:
    found = {
        init for init in STARTING_AT_BASE if attach_init(load("llama", "nf4"), init).kept_starts()
    }
    assert found == set(PART_OF_BASE)


@pytest.mark.parametrize("init", PART_OF_BASE)
def test_a_packed_checkpoint_has_no_original_to_start_from(load: Load, init: str) -> None:
    model = load("llama", CHECKPOINT)
    with pytest.raises(AdapterError, match=f"'{init}'.*already quantized: .* are gone"):
        attach_init(model, init)
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())


@pytest.mark.parametrize(("storage", "kind", "init"), VARIANTS)
def test_the_base_keeps_what_the_start_does_not(
    load: Load, storage: str, kind: str, init: str
) -> None:
    """Q = pack(W - s B0 A0) in the base's own storage, and what is measured is the error of it."""
    for family in ("llama", "gpt2"):
        original, model = load(family), load(family, storage)
        adapter = attach_init(model, init, kind=kind, lora_alpha=6, use_rslora=True)
        for name, module in adapter.modules.items():
            weight = dense_weight(original, name).double()
            assert module.kept_start is not None
            start, s = module.kept_start.start, module.adapter.scaling
            rest = weight
            if start.subtracted is not None:
                taken = start.subtracted
                rest = weight - s * (taken.lora_B.double() @ taken.lora_A.double())
            settings = {"block_size": 64, "double_quantization": True}
            packed = storage_named(storage).pack(rest.float().contiguous(), **settings)
            stored = module.base_layer.weight.double()
            assert relative_error(stored, packed.dequantize()) < (
                1e-6 if storage == "none" else 1e-2
            )
            if storage == "none":
                continue
            plain = storage_named(storage).pack(weight.float().contiguous(), **settings)
            begun = stored + s * (start.lora_B.double() @ start.lora_A.double())
            ratio = (weight - begun).norm() / (weight - plain.dequantize().double()).norm()
            assert adapter.start_errors[name].ratio == pytest.approx(ratio.item(), rel=1e-4)


@pytest.mark.parametrize(("storage", "kind", "init"), VARIANTS)
def test_disabled_is_the_model_as_it_started(
    load: Load, storage: str, kind: str, init: str
) -> None:
    model = load("qwen2", storage)
    adapter = attach_init(model, init, kind=kind, lora_alpha=6)
    started, weights = logits(model), {n: m.weight.detach() for n, m in adapter.modules.items()}
    perturb(model)
    trained = logits(model)
    assert relative_error(trained, started) > 1e-3
    with adapter_disabled(model):
        assert relative_error(logits(model), started) <= IDENTITY
        for name, module in adapter.modules.items():
            assert relative_error(module.weight, weights[name]) <= IDENTITY
    assert torch.equal(logits(model), trained)


@pytest.mark.parametrize("alpha", [2, 4, 8, 16])
@pytest.mark.parametrize("num_iterations", [1, 3])
@pytest.mark.parametrize("storage", PACKED_PARAMETERS)
def test_loftq_helps_at_any_scaling(
    load: Load, storage: str, num_iterations: int, alpha: int
) -> None:
    """PEFT's factors are right for alpha = r = 4 only: its ratio is above 1 for alpha = 4r."""
    adapter = attach_init(
        load("llama", storage),
        "loftq",
        lora_alpha=alpha,
        loftq_config={"loftq_iter": num_iterations},
    )
    ratios = [error.ratio for error in adapter.start_errors.values()]
    assert max(ratios) < 0.95
    starts = [module.kept_start.start for module in adapter.modules.values()]
    assert all((start.subtracted is None) == (num_iterations == 1) for start in starts)


@pytest.mark.parametrize("storage", PACKED_PARAMETERS)
def test_more_iterations_of_loftq_fit_better(load: Load, storage: str) -> None:
    def mean_ratio(num_iterations: int) -> float:
        config = {"loftq_iter": num_iterations}
        adapter = attach_init(load("llama", storage), "loftq", loftq_config=config)
        return sum(e.ratio for e in adapter.start_errors.values()) / len(adapter.start_errors)

    assert mean_ratio(5) < mean_ratio(1)


def test_layers_that_are_dense_in_a_quantized_base_start_by_default_with_loftq(load: Load) -> None:
    adapter = attach_init(load("llama", "nf4"), "loftq", target_modules=["lm_head", "q_proj"])
    assert adapter.modules["lm_head"].kept_start is None
    assert adapter.modules["lm_head"].adapter.lora_A.abs().max() > 0
    assert "lm_head" not in adapter.start_errors and len(adapter.start_errors) == 2


def test_the_randomized_svd_is_seeded_and_near_the_best() -> None:
    weight = torch.randn(60, 40, generator=torch.Generator().manual_seed(3))
    best = torch.linalg.svdvals(weight)[4:].norm()

    def error(num_iterations: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        U, S, Vh = randomized_svd(weight, 4, num_iterations, generator, oversampling=10)
        return (weight - U @ torch.diag(S) @ Vh).norm()

    assert error(4) == error(4) != error(4, seed=1)
    assert best <= error(4) * (1 + 1e-6) and error(4) < 1.01 * best
    assert error(16) - best < error(1) - best


def test_seeds_tell_randomized_starts_apart(load: Load) -> None:
    name = "model.layers.0.mlp.up_proj"
    config = LoraConfig(r=4, init_lora_weights="pissa_niter_1", target_modules=[name])
    one, same, other = (
        attach_adapter(load("llama"), config, seed=seed).modules[name].adapter.lora_A
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_tied_head_gets_a_weight_of_its_own(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path, "llama", tie_word_embeddings=True)
    model, _ = load_base(folder, dtype=torch.float32, device="cpu")
    before, embeddings = logits(model), model.get_input_embeddings().weight.clone()
    attach_init(model, "pissa", target_modules=["lm_head", "q_proj"])
    assert relative_error(logits(model), before) <= IDENTITY
    assert torch.equal(model.get_input_embeddings().weight, embeddings)


@pytest.mark.parametrize("storage", FAST_STORAGES)
@pytest.mark.parametrize("offload", ["cpu", "disk"])
def test_offloaded_layers_stay_where_they_are(
    folders: dict[str, Path], storage: str, offload: str
) -> None:
    def loaded(**place: object) -> PreTrainedModel:
        options = {"quantization": storage, "dtype": torch.float32, "device": "cpu"}
        return load_base(folders["llama"], **options, **place)[0]

    def elsewhere(model: PreTrainedModel) -> list[str]:
        kinds = HostWeight if offload == "cpu" else DiskWeight
        return sorted(
            name
            for name, module in model.named_modules()
            if isinstance(module, FrozenLinear) and isinstance(module.stored, kinds)
        )

    expected = loaded()
    attach_init(expected, "pissa")
    model = loaded(offload=offload, max_device_memory=108_000)
    before = [f"{name}.base_layer" for name in elsewhere(model)]
    assert before
    attach_init(model, "pissa")
    assert elsewhere(model) == before
    assert torch.equal(logits(model), logits(expected))


@pytest.mark.parametrize("init", PART_OF_BASE)
def test_shapes_are_known_without_data(init: str, folders: dict[str, Path], load: Load) -> None:
    from lorakit.base.empty import empty_base

    config = LoraConfig(r=4, init_lora_weights=init)
    empty = empty_base(folders["llama"], quantization="nf4", dtype=torch.float32)
    on_meta = attach_adapter(empty, config)
    real = attach_adapter(load("llama", "nf4"), config)
    assert all(tensor.is_meta for tensor in on_meta.kept_starts().values())
    shapes = {name: tensor.shape for name, tensor in real.kept_starts().items()}
    assert {name: tensor.shape for name, tensor in on_meta.kept_starts().items()} == shapes


def test_starts_stay_float32_when_the_model_is_cast(load: Load) -> None:
    model = load("llama")
    module = attach_init(model, "pissa").modules["model.layers.0.mlp.up_proj"]
    before = module.kept_start.start.lora_A.clone()
    model.to(torch.bfloat16)
    assert torch.equal(module.kept_start.start.lora_A, before)


def test_a_start_that_moves_stays_one(load: Load) -> None:
    """What is subtracted and what it starts from are one tensor, and stay so on another device."""
    module = attach_init(load("llama"), "pissa").modules["model.layers.0.mlp.up_proj"]
    assert module.kept_start.tensors().keys() == {"subtracted_A", "subtracted_B"}
    assert module.kept_start.to("meta").tensors().keys() == {"subtracted_A", "subtracted_B"}


def test_what_is_taken_apart_is_put_together_again(load: Load) -> None:
    config = {"loftq_iter": 2}
    module = next(
        iter(attach_init(load("llama", "nf4"), "loftq", loftq_config=config).modules.values())
    )
    assert isinstance(module, AdaptedLinear)
    start = module.kept_start.start
    again = start_from(start_tensors(start))
    assert torch.equal(again.lora_A, start.lora_A)
    assert torch.equal(again.subtracted.lora_B, start.subtracted.lora_B)


@pytest.mark.parametrize("init", ["pissa", "loftq"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_and_dense_stand_ins_compute_the_same(load: Load, init: str, kind: str) -> None:
    model = load("llama", "nf4")
    attach_init(model, init, kind=kind)
    perturb(model)
    expected = logits(model)
    assert relative_error(logits(merge(model)), expected) <= LOGITS_FLOAT32
    with adapter_disabled(model):
        started = logits(model)
        with dense_layers(model, 1 << 40):
            assert relative_error(logits(model), started) <= LOGITS_FLOAT32
    with dense_layers(model, 1 << 40):
        assert relative_error(logits(model), expected) <= LOGITS_FLOAT32


def test_a_worse_fit_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ternary weights fit NF4 but for the rounding of their scales: subtracting spoils that."""
    model = tiny.model("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                blocks = parameter.sign().view(-1, 64)
                scales = 0.02 * torch.rand(len(blocks), 1) + 0.01
                parameter.copy_((blocks * scales).view_as(parameter))
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)

    def ratios(init: str, **load: object) -> list[float | None]:
        base, _ = load_base(tmp_path, quantization="nf4", device="cpu", **load)
        config = {"loftq_config": {"loftq_iter": 5}} if init == "loftq" else {}
        adapter = attach_init(base, init, **config)
        assert all(m.adapter.lora_A.abs().max() > 0 for m in adapter.modules.values())
        return [error.ratio for error in adapter.start_errors.values()]

    fitted = ratios("loftq")
    assert fitted and max(fitted) < 1 < max(ratios("pissa"))
    assert ratios("loftq", double_quantization=False) == []  # nothing to correct: by default
    with caplog.at_level(logging.INFO):
        assert set(ratios("pissa", double_quantization=False)) == {None}
    told = [record.message for record in caplog.records if record.message.startswith("init ")]
    assert "there is none without it" in told[-2] and "error of 14 layers larger" in told[-1]


def test_weights_that_are_not_finite_are_told(load: Load) -> None:
    model = load("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(AdapterError, match=r"'pissa' cannot decompose .*layers\.1\.mlp\.up_proj"):
        attach_init(model, "pissa")
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())


def test_the_plan_counts_what_is_kept(load: Load) -> None:
    adapter = attach_init(load("llama", "nf4"), "pissa")
    counted = {id(tensor) for m in adapter.modules.values() for tensor in m.kept_tensors()}
    assert {id(tensor) for tensor in adapter.kept_starts().values()} == counted


def test_every_init_has_a_page() -> None:
    pages = Path(__file__).parents[2] / "docs" / "inits"
    written = {path.stem for path in pages.glob("*.md")} - {"README"}
    assert written == {module.name for module in pkgutil.iter_modules(inits.__path__)}
    index = (pages / "README.md").read_text()
    assert all(f"({page}.md)" in index for page in written)


def unchanged(model: PreTrainedModel, config: LoraConfig, expected: str) -> None:
    """Attaching fails with this message and leaves the model as it was."""
    before = logits(model)
    grads = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(AdapterError, match=f"(?s){expected}"):
        attach_adapter(model, config)
    assert torch.equal(logits(model), before)
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == grads


def test_a_quantized_base_whose_original_is_gone_is_told(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "base", "llama")
    model, _ = load_base(folder, quantization="nf4", device="cpu")
    shutil.rmtree(folder)
    config = LoraConfig(r=4, init_lora_weights="pissa")
    unchanged(model, config, "'pissa': the original weight of .* cannot be read again.*Restore it")


def test_a_dense_model_needs_no_checkpoint() -> None:
    model = tiny.model("llama")
    before = logits(model)
    attach_init(model, "olora")
    assert relative_error(logits(model), before) <= IDENTITY


REFUSED = {
    "a rank above the layer's": (
        {"r": 40, "init_lora_weights": "pissa"},
        "none",
        r"rank 40 is more than 'model\.layers\.0\.self_attn\.q_proj' of shape \(32, 32\)",
    ),
    "nothing to correct": ({"init_lora_weights": "loftq"}, "none", "none of the adapted layers is"),
    "other bits": (
        {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 8}},
        "nf4",
        "loftq_bits 8 is not what the base is stored in: nf4 has 4 bits",
    ),
    "no data": ({"init_lora_weights": "eva"}, "none", "'eva' looks at the inputs"),
    "no iterations": (
        {"init_lora_weights": "pissa_niter_0"},
        "none",
        "'pissa_niter_0' is not built",
    ),
    "not built": ({"init_lora_weights": "corda"}, "none", "'corda' is not built; possible are"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused(load: Load, case: str) -> None:
    config, storage, expected = REFUSED[case]
    unchanged(load("llama", storage), LoraConfig(**({"r": 4} | config)), expected)


def test_calibration_without_effect_is_refused(load: Load) -> None:
    config = LoraConfig(r=4)
    with pytest.raises(AdapterError, match="calibration cannot take effect"):
        attach_adapter(load("llama"), config, calibration=[])


@pytest.mark.parametrize("name", ["pissa_niter_4", "PiSSA_niter_16", "pissa", "OLoRA", True])
def test_names_and_numbers_in_names_are_found(name: bool | str) -> None:
    inits.init(name)


def test_the_number_in_a_name() -> None:
    assert inits.number_in("pissa_niter_16") == 16
