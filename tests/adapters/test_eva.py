"""EVA: directions against an exact SVD of all inputs, ranks and directions against PEFT's."""

from __future__ import annotations

import peft
import pytest
import torch
from peft.tuners.lora.eva import get_eva_state_dict

from lorakit.adapters.activations import InputSpan
from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.modules import AdaptedLinear
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.errors import AdapterError
from lorakit.recipe import LoraConfig
from tests import tiny
from tests.adapters.bases import Load, logits, perturb, token_ids
from tests.adapters.peers import load_in_peft
from tests.tolerances import LOGITS_FLOAT32, relative_error

QUERY, KEY = (f"model.layers.0.self_attn.{name}_proj" for name in "qk")


def batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": token_ids(8, 16, seed)} for seed in range(count)]


def config(**options: object) -> LoraConfig:
    eva = {
        name: options.pop(name)
        for name in ("rho", "whiten", "tau", "use_label_mask", "adjust_scaling_factors")
        if name in options
    }
    return LoraConfig(**({"r": 4, "init_lora_weights": "eva", "eva_config": eva} | options))


@pytest.mark.parametrize("sizes", [[64], [20, 30, 14], [40, 3, 21]])
def test_a_span_is_the_svd_of_all_rows(sizes: list[int]) -> None:
    """Nothing is cut off where there are as many directions as features."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(sizes), 6, generator=generator) * torch.arange(1, 7) + 5
    span = InputSpan(6)
    for rows in x.split(sizes):
        span.add(rows)
    centred = (x - x.mean(dim=0)).double()
    _, S, Vh = torch.linalg.svd(centred, full_matrices=False)
    assert span.num_seen == 64
    assert relative_error(span.singular_values, S) < 1e-5
    assert (span.directions.double() * Vh).sum(dim=1).abs().min() > 1 - 1e-5
    assert relative_error(span.explained_ratios, S**2 / centred.square().sum()) < 1e-5
    assert span.explained_ratios.sum() == pytest.approx(1, abs=1e-5)


def test_half_precision_rows_are_added_up_in_float32() -> None:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    span = InputSpan(2)
    span.add(x)
    assert span.directions.dtype == torch.float32


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_ranks_and_directions_are_peft_s(load: Load, rho: float) -> None:
    data = batches(1) * 2  # PEFT reads its data again until every layer has converged
    theirs = get_eva_state_dict(
        tiny.model("llama"),
        data[:1],
        peft.LoraConfig(
            r=4,
            target_modules=["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"],
            init_lora_weights="eva",
            eva_config=peft.EvaConfig(rho=rho),
        ),
        show_progress_bar=False,
    )
    targets = ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"]
    adapter = attach_adapter(
        load("llama"), config(rho=rho, target_modules=targets), calibration=data
    )
    ranks = {name: facts.r for name, facts in adapter.adapted.items()}
    assert ranks == {name: len(rows) for name, rows in theirs.items() if len(rows)}
    assert (len(set(ranks.values())) > 1) == (rho > 1)
    overlaps = []
    for name, module in adapter.modules.items():
        other = theirs[name].float()
        assert (module.adapter.lora_A[0] * other[0]).sum().abs() > 0.99, name
        overlaps.append(torch.linalg.svdvals(module.adapter.lora_A @ other.T))
    # PEFT's SVD is randomized: of directions that vary alike it may find others.
    assert torch.cat(overlaps).mean() > 0.9


def test_the_budget_is_kept_and_so_is_the_scaling(load: Load) -> None:
    for use_rslora in (False, True):
        options = {"use_rslora": use_rslora, "lora_alpha": 6}
        adapter = attach_adapter(load("llama"), config(rho=2, **options), calibration=batches())
        ranks = [facts.r for facts in adapter.adapted.values()]
        assert sum(ranks) == 4 * 14 and max(ranks) <= 8 and len(set(ranks)) > 1
        before = attach_adapter(load("llama"), LoraConfig(r=4, **options))
        scaling = next(iter(before.adapted.values())).scaling
        scalings = [facts.scaling for facts in adapter.adapted.values()]
        assert scalings == pytest.approx([scaling] * len(ranks))
    options = {"adjust_scaling_factors": False, "lora_alpha": 6}
    adapter = attach_adapter(load("llama"), config(**options), calibration=batches())
    assert all(facts.scaling == 6 / facts.r for facts in adapter.adapted.values())


def test_a_layer_without_a_rank_is_left_out_and_told(load: Load) -> None:
    """A rank of 1 per layer to share out: down_proj's inputs spread over many directions."""
    adapter = attach_adapter(load("llama"), config(r=1, rho=8), calibration=batches())
    left_out = {n: why for n, why in adapter.not_adapted.items() if "eva" in why}
    assert left_out and len(left_out) + len(adapter.adapted) == 14
    assert all("eva gave it rank 0" in why for why in left_out.values())
    assert sum(facts.r for facts in adapter.adapted.values()) == 14


def test_whitening_scales_directions(load: Load) -> None:
    plain = attach_adapter(load("llama"), config(rho=1), calibration=batches())
    white = attach_adapter(load("llama"), config(rho=1, whiten=True), calibration=batches())
    one, two = (a.modules[QUERY].adapter.lora_A for a in (plain, white))
    norms = two.norm(dim=1)
    assert relative_error(two / norms[:, None], one) < 1e-5
    assert (norms.diff() > 0).all()  # the less a direction varies, the longer it gets


def test_layers_with_the_same_input_share_their_directions(load: Load) -> None:
    adapter = attach_adapter(load("llama"), config(rho=1), calibration=batches())
    one, two = (adapter.modules[name].adapter.lora_A for name in (QUERY, KEY))
    assert torch.equal(one, two)


@pytest.mark.parametrize("mask", ["attention_mask", "labels"])
def test_only_counted_tokens_count(load: Load, mask: str) -> None:
    ids = token_ids(8, 16)
    counted = torch.zeros_like(ids)
    counted[:, :12] = 1
    value = counted if mask == "attention_mask" else torch.where(counted > 0, ids, -100)
    short = attach_adapter(load("llama"), config(rho=1), calibration=[{"input_ids": ids[:, :12]}])
    masked = attach_adapter(
        load("llama"), config(rho=1), calibration=[{"input_ids": ids, mask: value}]
    )
    whole = attach_adapter(
        load("llama"),
        config(rho=1, use_label_mask=False),
        calibration=[{"input_ids": ids, "labels": torch.full_like(ids, -100)}],
    )
    one, two, other = (a.modules[QUERY].adapter.lora_A for a in (short, masked, whole))
    assert relative_error((one @ two.T).diagonal().abs(), torch.ones(4)) < 1e-4
    assert relative_error((one @ other.T).diagonal().abs(), torch.ones(4)) > 1e-4


def test_reading_stops_once_all_directions_stand_still(load: Load) -> None:
    def endless():
        for count in range(100):
            yield {"input_ids": token_ids(8, 16)}
            read.append(count)

    read: list[int] = []
    attach_adapter(load("llama"), config(), calibration=endless())
    assert len(read) < 5


def test_the_model_is_left_as_it_was(load: Load) -> None:
    model = load("llama").train()
    before, modes = logits(model), [m.training for m in model.modules()]
    with pytest.raises(AdapterError, match=r"saw 6 tokens .*8 directions need more"):
        attach_adapter(model, config(), calibration=[{"input_ids": token_ids(1, 6)}])
    with pytest.raises(AdapterError, match=r"saw 0 tokens"):
        attach_adapter(model, config(), calibration=[])
    with pytest.raises(AdapterError, match=r"\['ids'\], no input_ids"):
        attach_adapter(model, config(), calibration=[{"ids": token_ids()}])
    assert torch.equal(logits(model), before)
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert not any(isinstance(m, AdaptedLinear) for m in model.modules())


def test_shared_ranks_are_saved_and_loaded_here_and_in_peft(load: Load, tmp_path) -> None:
    model = load("qwen2")
    attach_adapter(model, config(r=2, rho=4, use_rslora=True), calibration=batches())
    perturb(model)
    save_adapter(model, tmp_path)
    again = load("qwen2")
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    in_peft = load_in_peft(tiny.model("qwen2"), tmp_path)
    assert relative_error(logits(in_peft), logits(model)) <= LOGITS_FLOAT32
