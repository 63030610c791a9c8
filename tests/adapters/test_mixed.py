"""A mixed batch is each of its rows alone: logits and gradients, whatever the rows' adapters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from lorakit import kernels
from lorakit.adapters.attach import adapter_disabled, attach_adapter
from lorakit.adapters.dense_layers import dense_layers
from lorakit.adapters.mixed import Mixed, adapters_by_row
from lorakit.adapters.several import adapter_names, drop_adapter, find, use_adapter
from lorakit.adapters.store import save_adapter
from lorakit.base.head import backbone_hidden, logits_fn
from lorakit.data.examples import MicroBatch
from lorakit.engine.recompute import RecomputePolicy
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from lorakit.train.modes import training_mode
from tests.adapters.bases import FAMILIES, KINDS, STORAGES, Load, logits, perturb, token_ids
from tests.adapters.peers import peft_warnings, same_weights
from tests.adapters.test_several import CASES, fingerprint
from tests.tolerances import GRADIENT_FLOAT32, LOGITS_FLOAT32, relative_error

NAMES = ["a", None, "b", "a", "b", None]
IDS = token_ids(len(NAMES), 7)
SOME = {"llama": ["q_proj", "down_proj"], "qwen2": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}
# Every module that is no linear layer, for one of the two or for both, and heads of both types.
BESIDE = {
    "embeddings": (
        "llama",
        {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [7, 9, 11], "modules_to_save": ["model.norm"]},
    ),
    "tied rows": (
        "gpt2",
        {"trainable_token_indices": list(range(5, 60))},
        {"target_modules": ["c_attn", "wte"], "modules_to_save": ["ln_1"]},
    ),
    "adapted head": (
        "qwen2",
        {"target_modules": ["lm_head", "q_proj"], "modules_to_save": ["embed_tokens"]},
        {"trainable_token_indices": {"embed_tokens": [5, 6], "lm_head": [7, 8]}},
    ),
}


def attach_two(model: PreTrainedModel, **configs: LoraConfig) -> PreTrainedModel:
    for seed, (name, config) in enumerate(configs.items()):
        attach_adapter(model, config, seed=seed, name=name)
        perturb(model, seed=seed)
    return model


def two_kinds(model: PreTrainedModel, family: str, kind: str, **more: object) -> PreTrainedModel:
    other = next((one for one in KINDS if one != kind), kind)
    return attach_two(
        model,
        a=LoraConfig(kind=kind, r=4, **more),
        b=LoraConfig(kind=other, r=2, target_modules=SOME[family], use_rslora=True, **more),
    )


def run_alone(model: PreTrainedModel, name: str | None, run: Callable[[], torch.Tensor]):
    if name is None:
        with adapter_disabled(model):
            return run()
    use_adapter(model, name)
    return run()


def check_law(model: PreTrainedModel, names: list[str | None] = NAMES) -> None:
    """Logits of every row, and every adapter's gradients, with the rows in one batch and alone."""
    ids = token_ids(len(names), 7)
    weights = torch.randn(len(names), 7, 1, generator=torch.Generator().manual_seed(2))
    together, alone = {}, {}
    with adapters_by_row(model, names):
        assert any(isinstance(module, Mixed) for module in model.modules())
        mixed = model(ids).logits
        (mixed * weights).sum().backward()
    for name in adapter_names(model):
        together |= taken_gradients(model, name)
    for name in dict.fromkeys(names):
        rows = [row for row, other in enumerate(names) if other == name]
        found = run_alone(model, name, lambda rows=rows: model(ids[rows]).logits)
        assert relative_error(mixed[rows], found) <= LOGITS_FLOAT32, name
        if name is not None:
            (found * weights[rows]).sum().backward()
            alone |= taken_gradients(model, name)
    assert alone and alone.keys() == together.keys()
    for name, gradient in alone.items():
        assert relative_error(together[name], gradient) <= GRADIENT_FLOAT32, name


def taken_gradients(model: PreTrainedModel, name: str) -> dict[tuple[str, str], torch.Tensor]:
    gradients = {}
    for below, parameter in find(model, name).parameters().items():
        if parameter.grad is not None:
            gradients[name, below] = parameter.grad
            parameter.grad = None
    return gradients


@pytest.mark.parametrize(("family", "storage", "kind"), CASES)
def test_a_mixed_batch_is_each_row_alone(load: Load, family: str, storage: str, kind: str) -> None:
    model = two_kinds(load(family, storage), family, kind)
    before, state = logits(model), fingerprint(model)
    check_law(model)
    use_adapter(model, "b")
    assert fingerprint(model) == state and torch.equal(logits(model), before)


@pytest.mark.parametrize("case", BESIDE)
def test_what_stands_beside_the_linear_layers_mixes(load: Load, case: str) -> None:
    family, one, other = BESIDE[case]
    names = {"target_modules": SOME[family]}
    model = attach_two(
        load(family), a=LoraConfig(r=4, **(names | one)), b=LoraConfig(r=2, **(names | other))
    )
    check_law(model)


@pytest.mark.parametrize("storage", STORAGES)
def test_packed_rows_mix(load: Load, storage: str) -> None:
    """Sequences in one row, each with its own adapter, as in training and serving."""
    model = two_kinds(load("llama", storage), "llama", "lora")
    names, lengths = ["b", None, "a", "b"], [3, 6, 2, 5]
    rows = [token_ids(1, length, seed)[0] for seed, length in enumerate(lengths)]
    by_token = [name for name, n in zip(names, lengths, strict=True) for _ in range(n)]
    with torch.no_grad():
        with adapters_by_row(model, by_token):
            mixed = logits_fn(model)(backbone_hidden(model, packed(rows)))
        parts = mixed.split(lengths)
        for name, ids, part in zip(names, rows, parts, strict=True):
            found = run_alone(model, name, lambda ids=ids: model(ids[None]).logits[0])
            assert relative_error(part, found) <= LOGITS_FLOAT32


def packed(rows: list[torch.Tensor]) -> MicroBatch:
    lengths = [len(row) for row in rows]
    nothing = torch.empty(0, dtype=torch.int64)
    return MicroBatch(
        input_ids=torch.cat(rows)[None],
        position_ids=torch.cat([torch.arange(len(row)) for row in rows])[None],
        attention_mask=None,
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        lengths=tuple(lengths),
        max_seqlen=max(lengths),
        predictor_rows=nothing,
        targets=nothing,
        target_weights=torch.empty(0),
        target_examples=nothing,
        example_ids=nothing,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_keyed_dropout_mixes(load: Load, kind: str) -> None:
    model = two_kinds(load("llama"), "llama", kind, lora_dropout=0.4).train()
    keys = kernels.mix_keys(5, torch.arange(IDS.numel())).view(IDS.shape)
    for name in adapter_names(model):
        find(model, name).dropout.rows = keys.flatten()
    with torch.no_grad(), adapters_by_row(model, NAMES):
        mixed = model(IDS).logits
    for name in dict.fromkeys(NAMES):
        rows = [row for row, other in enumerate(NAMES) if other == name]
        for one in adapter_names(model):
            find(model, one).dropout.rows = keys[rows].flatten()
        found = run_alone(model, name, lambda rows=rows: model(IDS[rows]).logits)
        assert relative_error(mixed[rows], found) <= LOGITS_FLOAT32, name
    assert all(module.training for module in model.modules())


def test_a_packed_weight_is_unpacked_once_for_all_rows(load: Load, monkeypatch) -> None:
    model = two_kinds(load("llama", "nf4"), "llama", "lora")
    unpack, calls = kernels.four_bit_dequantize, []
    monkeypatch.setattr(
        kernels, "four_bit_dequantize", lambda *args: calls.append(1) or unpack(*args)
    )
    with torch.no_grad(), adapters_by_row(model, NAMES):
        model(IDS)
    every_layer, norms_of_dora = len(find(model, "a").modules), len(find(model, "b").modules)
    assert len(calls) == every_layer + norms_of_dora


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_layers_unpack_the_base_and_merge_nothing(load: Load, family: str) -> None:
    model = two_kinds(load(family, "nf4"), family, "dora")
    with torch.no_grad(), adapters_by_row(model, NAMES):
        expected = model(IDS).logits
        with dense_layers(model, 1 << 30):
            assert relative_error(model(IDS).logits, expected) <= LOGITS_FLOAT32
        assert torch.equal(model(IDS).logits, expected)


@pytest.mark.parametrize("names", [["a"] * 3, [None] * 3, ["b", None, "b"]])
def test_any_selection_of_adapters(load: Load, names: list[str | None]) -> None:
    model = two_kinds(load("llama"), "llama", "lora")
    with torch.no_grad(), adapters_by_row(model, names):
        mixed = model(IDS[:3]).logits
        last = model(IDS[:3], logits_to_keep=1).logits
    assert relative_error(mixed[:, -1:], last) <= LOGITS_FLOAT32
    for row, name in enumerate(names):
        found = run_alone(model, name, lambda row=row: logits_of(model, IDS[row]))
        assert relative_error(mixed[row], found) <= LOGITS_FLOAT32


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    return model(ids[None]).logits[0]


def test_the_last_tokens_alone_reach_an_adapted_head(load: Load) -> None:
    targets = {"target_modules": ["q_proj", "lm_head"]}
    model = attach_two(load("llama"), a=LoraConfig(r=4, **targets), b=LoraConfig(r=2, **targets))
    with torch.no_grad(), adapters_by_row(model, NAMES):
        whole, last = model(IDS).logits, model(IDS, logits_to_keep=2).logits
    assert relative_error(last, whole[:, -2:]) <= LOGITS_FLOAT32


def test_a_mixed_batch_trains_every_adapter_under_checkpointing(load: Load) -> None:
    model = two_kinds(load("llama"), "llama", "lora")
    gradients = []
    for level in ("none", "full"):
        with (
            adapters_by_row(model, NAMES),
            training_mode(model, find(model, "a"), RecomputePolicy(level)),
        ):
            model(IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append(taken_gradients(model, "a") | taken_gradients(model, "b"))
    assert len(gradients[0]) == sum(len(find(model, one).parameters()) for one in "ab")
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient), name


def test_mixed_batches_equal_pefts(load: Load, folders, tmp_path) -> None:
    """On its side of the law: LoRA, one adapter for each sequence."""
    model = attach_two(
        load("llama"),
        a=LoraConfig(r=4, lora_alpha=3),
        b=LoraConfig(r=2, target_modules=SOME["llama"], use_rslora=True),
    )
    for name in ("a", "b"):
        use_adapter(model, name)
        save_adapter(model, tmp_path / name)
    theirs = same_weights(model, folders["llama"])
    with peft_warnings():
        peer = PeftModel.from_pretrained(theirs, tmp_path / "a", adapter_name="a").eval()
        peer.load_adapter(tmp_path / "b", adapter_name="b")
    with torch.no_grad(), adapters_by_row(model, NAMES):
        ours = model(IDS).logits
        expected = peer(IDS, adapter_names=[name or "__base__" for name in NAMES]).logits
    assert relative_error(ours, expected) <= LOGITS_FLOAT32


def test_what_cannot_mix_is_refused_by_name(load: Load, tmp_path) -> None:
    model = load("qwen2")
    attach_adapter(model, LoraConfig(r=2), name="a")
    attach_adapter(model, LoraConfig(r=2, bias="lora_only"), name="biased")
    attach_adapter(
        model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["mlp"]), name="mlp"
    )
    perturb(model)
    before, state = logits(model), fingerprint(model)
    refused = {
        "no adapter 'c'": ["a", "c"],
        "'biased' has bias 'lora_only'": ["a", "biased"],
        "'mlp' changes 'model.layers.0.mlp', a Qwen2MLP": ["mlp", None],
    }
    for message, names in refused.items():
        with pytest.raises(AdapterError, match=message), adapters_by_row(model, names):
            pass
    with (
        adapter_disabled(model),
        pytest.raises(AdapterError, match="inside adapter_disabled"),
        adapters_by_row(model, ["a"]),
    ):
        pass
    with adapters_by_row(model, ["a", None]):
        with pytest.raises(AdapterError, match="2 adapters are named for a batch of 6 rows of 7"):
            model(IDS)
        with pytest.raises(AdapterError, match=r"reads the weight of 'model.layers.0.self_attn.q"):
            _ = model.model.layers[0].self_attn.q_proj.weight
        with pytest.raises(AdapterError, match="sees 5 rows of a pass with 14 tokens"):
            model(IDS[:2])
            model.model.layers[0].self_attn.q_proj(torch.zeros(5, 32))
        inside = {
            "save": lambda: save_adapter(model, tmp_path / "x"),
            "switch": lambda: use_adapter(model, "a"),
            "drop": lambda: drop_adapter(model, "a"),
            "attach": lambda: attach_adapter(model, LoraConfig(r=2), name="d"),
            "mix": lambda: adapters_by_row(model, ["a"]).__enter__(),
            "disable": lambda: adapter_disabled(model).__enter__(),
        }
        for call in inside.values():
            with pytest.raises(AdapterError, match="inside adapters_by_row no single adapter"):
                call()
    assert torch.equal(logits(model), before) and fingerprint(model) == state


def test_an_error_inside_puts_the_one_in_use_back(load: Load) -> None:
    model = two_kinds(load("llama"), "llama", "lora")
    before, state = logits(model), fingerprint(model)
    with pytest.raises(KeyError), adapters_by_row(model, NAMES):
        raise KeyError
    assert adapter_names(model) == ["b", "a"]
    assert torch.equal(logits(model), before) and fingerprint(model) == state
