"""Time is predicted pass by pass, on rates or a data sheet; operations are those of the engine."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.modules import AdaptedLinear
from lorakit.cli import main
from lorakit.data.examples import Example, ExampleSet, examples_in_memory
from lorakit.engine.flops import AdaptedShape, step_flops
from lorakit.engine.model_flops import ModelFlops, count_flops, visible_pairs
from lorakit.engine.passes import Pass
from lorakit.engine.recompute import RecomputePolicy
from lorakit.errors import InputError
from lorakit.plan import rows
from lorakit.plan.duration import NOT_TIMED, Timing
from lorakit.plan.evaluation_work import EvaluationWork, Passes
from lorakit.plan.gpus import GPUS, WITHOUT_BFLOAT16, find_gpu
from lorakit.plan.machines import DataSheet
from lorakit.plan.plan import plan
from lorakit.plan.prices import load_prices
from lorakit.plan.result import Plan
from lorakit.plan.rows import Sets, up_to_length
from lorakit.plan.steps import count_run_length
from lorakit.plan.time import Events, predict_seconds
from lorakit.plan.workload import run_workload
from lorakit.recipe import LoraConfig, Recipe, parse_recipe
from lorakit.train.batches import StepBatches
from lorakit.train.rates import Curve
from tests import families

NONE = RecomputePolicy("none")
# Their states are computed in blocks whose products grow with the square of a short length; and
# those that have no attention at all.
NOT_HELD = {"bamba", "falcon_h1", "granitemoehybrid", "minimax", "nemotron_h"}
NOT_HELD |= {"falcon_mamba", "mamba", "mamba2", "rwkv"}
ATTENDING = sorted(set(families.FAMILIES) - NOT_HELD)


def examples(count: int, longest: int = 60, seed: int = 0) -> ExampleSet:
    generator = np.random.default_rng(seed)
    made = []
    for length in generator.integers(8, longest, count):
        weights = np.zeros(length, dtype=np.float32)
        weights[length // 2 :] = 1
        made.append(Example(generator.integers(5, 400, length).astype(np.int32), weights))
    return examples_in_memory(made)


def recipe_of(folder: Path, **sections: dict[str, Any]) -> Recipe:
    base = {"model": str(folder), "device": "cpu"} | sections.pop("base", {})
    return parse_recipe({"base": base, "data": {"train": "no/rows.jsonl"}} | sections)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.folder(tmp_path_factory.mktemp("llama"), "llama")


def flops_of(model_type: str, config: LoraConfig | None = None) -> ModelFlops:
    model = families.build(model_type)
    return count_flops(model, attach_adapter(model, config or LoraConfig(r=4)), 4)


@pytest.mark.parametrize("use_dora", [False, True])
def test_operations_are_those_that_the_engine_is_held_to(use_dora: bool) -> None:
    model = families.build("llama")
    adapter = attach_adapter(model, LoraConfig(r=4, use_dora=use_dora))
    flops = count_flops(model, adapter, 4)
    first = {f"model.layers.0.self_attn.{name}_proj" for name in "qkv"}
    shapes = [
        AdaptedShape(
            *(module.in_features, module.out_features, module.adapter.r),
            input_gradient=name not in first,
            has_norms=use_dora,
        )
        for name, module in adapter.modules.items()
        if isinstance(module, AdaptedLinear)
    ]
    config = model.config
    expected = step_flops(
        shapes, [(30, 7)], hidden_size=config.hidden_size, vocab_size=config.vocab_size
    )
    without_attention = Pass(30, 7, ())
    assert flops.training(without_attention, NONE) + flops.step == expected


def test_frozen_layers_below_and_beside_what_trains() -> None:
    """Only the second layer's v trains: below it nothing has a gradient, above it inputs do."""
    model = families.build("llama")
    only = LoraConfig(r=4, target_modules=["v_proj"], layers_to_transform=[1])
    flops = count_flops(model, attach_adapter(model, only), 4)
    layer = model.get_submodule("model.layers.1")
    above = [layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]
    v = layer.self_attn.v_proj
    factors = AdaptedShape(v.in_features, v.out_features, 4, input_gradient=False)
    expected = sum(2 * m.in_features * m.out_features for m in above) + factors.backward_flops(1)
    assert flops.backward == expected


def test_experts_count_as_often_as_tokens_are_sent_to_them() -> None:
    two, four = families.build("mixtral"), families.build("mixtral")
    four.config.num_experts_per_tok = 4
    config = LoraConfig(r=4)
    fewer, more = (count_flops(m, attach_adapter(m, config), 4) for m in (two, four))
    experts = sum(
        m.config.num_hidden_layers * 3 * 2 * 32 * m.config.intermediate_size for m in [two]
    )
    assert more.forward - fewer.forward > 2 * experts  # two more of them, and their factors
    assert more.forward - fewer.forward < 2 * 1.5 * experts


@pytest.mark.parametrize("model_type", ATTENDING)
def test_attention_costs_what_a_pass_counts(model_type: str) -> None:
    """PyTorch counts whole squares of scores: what grows with the length squared is theirs."""
    model = families.build(model_type)
    model.set_attn_implementation("eager")
    one, two = (_counted(model, tokens) for tokens in (64, 128))
    squared = (two - 2 * one) / (128**2 - 2 * 64**2)
    layers = count_flops(model, attach_adapter(model, LoraConfig(r=4)), 4).layers
    counted = sum(cost for layer in layers for _, cost in layer.pairs)
    # A convolution pads by a few tokens, which do not double with the length.
    assert counted == pytest.approx(squared, rel=0.005)


def _counted(model: PreTrainedModel, tokens: int) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.full((1, tokens), 5), use_cache=False)
    return int(counter.get_total_flops())


def test_pairs_of_tokens() -> None:
    assert visible_pairs([3, 1], None) == 3 + 2 + 1 + 1
    assert visible_pairs([5], 2) == 1 + 2 + 2 + 2 + 2


def test_recompute_costs_a_forward_pass_of_the_layers() -> None:
    flops, one = flops_of("llama"), Pass(50, 10, (20, 30))
    kept, again = flops.in_layers(one, NONE), flops.in_layers(one, RecomputePolicy("full"))
    assert kept.recompute == 0
    assert again.recompute == kept.forward
    selective = flops.in_layers(one, RecomputePolicy("selective"))
    assert 0 < selective.recompute < again.recompute
    budget = RecomputePolicy("auto", 50 * flops.layer_bytes[0].none)  # one of two layers
    assert 0 < flops.in_layers(one, budget).recompute < again.recompute


def test_curves_go_through_their_points_and_on_in_proportion() -> None:
    curve = Curve((2.0, 4.0), (3.0, 5.0))
    assert [curve.at(size) for size in (2, 3, 4, 8)] == [3, 4, 5, 10]
    assert curve.at(1e-9) == pytest.approx(1.0)  # what a pass takes at least
    assert Curve((2.0,), (3.0,)).at(1) == 1.5


@pytest.mark.parametrize("packed", [True, False])
def test_passes_are_those_of_the_loop(packed: bool) -> None:
    rows, repeats = examples(23), np.full(23, 2.0)
    length = count_run_length(rows, repeats, batch_size=5, num_epochs=2, max_steps=None, seed=3)
    workload = run_workload(
        rows, repeats, length, batch_size=5, seed=3, micro_batch_tokens=90, packed=packed
    )
    batches = StepBatches(rows, repeats, batch_size=5, seed=3, token_budget=90, packed=packed)
    assert len(workload.steps) == length.steps
    assert workload.scale == 1
    for step, passes in enumerate(workload.steps):
        made = [
            (b.input_ids.numel(), len(b.targets), sum(b.lengths) if packed else None)
            for b in batches[step].micro_batches
        ]
        assert made == [
            (one.tokens, one.trained, sum(one.lengths) if packed else None) for one in passes
        ]


def test_long_runs_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, repeats = examples(200), np.ones(200)
    length = count_run_length(rows, repeats, batch_size=2, num_epochs=20, max_steps=None, seed=0)
    laid: dict[str, Any] = {"batch_size": 2, "seed": 0, "micro_batch_tokens": 99, "packed": True}
    sampled = run_workload(rows, repeats, length, **laid)
    assert len(sampled.steps) < length.steps
    tokens = sum(one.tokens for one in sampled.passes) * sampled.scale
    assert tokens == pytest.approx(length.tokens)
    monkeypatch.setattr("lorakit.plan.workload.MAX_STEPS", 10**6)
    whole = run_workload(rows, repeats, length, **laid)
    trained = [sum(one.trained for one in w.passes) * w.scale for w in (sampled, whole)]
    assert trained[0] == pytest.approx(trained[1], rel=0.02)


def test_the_parts_add_up() -> None:
    class Machine:
        how, decode_batch, step, checkpoint, load = "", 4, 0.5, 3.0, 7.0

        def micro_batch(self, one: Pass) -> float:
            return one.tokens

        def loss_pass(self, one: Pass) -> float:
            return one.tokens / 10

        def decode(self, batch: int) -> float:
            return 0.1

        def formulas(self, count: int) -> float:
            return 0.25 * count

    rows, repeats = examples(10), np.ones(10)
    length = count_run_length(rows, repeats, batch_size=5, num_epochs=1, max_steps=None, seed=0)
    workload = run_workload(
        rows, repeats, length, batch_size=5, seed=0, micro_batch_tokens=64, packed=True
    )
    one = Pass(20, 4, (20,))
    work = EvaluationWork([Passes([one, one])], [Passes([one], 2.0)], 6, 10, [one], 4, 5)
    events = Events(2, 3, [one], True, work)
    seconds = predict_seconds(workload, events, Machine(), start=1.0)
    assert seconds.start == 8
    assert seconds.rehearsal == max(one.tokens for one in workload.passes) + 2 + 0.5
    assert seconds.training == length.tokens + 2 * 0.5
    assert (seconds.validation, seconds.checkpoints) == (4, 9)
    # Base and tuned: two losses, the options twice; and formulas once.
    assert seconds.evaluation == 2 * (2 * 2 + 2 * 2) + 5 * 0.25
    assert seconds.answers_at_most == pytest.approx(2 * (2 + 2 * 10 * 0.1))
    # Of three sampled answers to each question as many more batches, and the prompts once more.
    sampled = predict_seconds(
        workload, replace(events, evaluation=replace(work, num_samples=3)), Machine(), start=1.0
    )
    assert sampled.answers_at_most == pytest.approx(2 * (2 * 2 + (2 + 5) * 10 * 0.1))
    parts = seconds.to_json()
    assert seconds.total == pytest.approx(sum(parts.values()) - parts["answers_at_most"])


def test_a_data_sheet_is_bound_by_products_or_by_memory() -> None:
    flops, gpu = flops_of("llama"), find_gpu("h100")

    def sheet(**changes: Any) -> DataSheet:
        values = {"weight_bytes": 0, "offloaded_bytes": 0, "unpacked_bytes": 0, "count": 1}
        values |= {"dtype": torch.bfloat16}
        return DataSheet(flops, gpu, 0.5, **(values | changes), policy=NONE)

    one = Pass(10_000, 5_000, (1000,) * 10)
    by_products = flops.training(one, NONE) / (gpu.flops_per_second * 0.5)
    assert sheet().micro_batch(one) == pytest.approx(by_products)
    assert sheet(count=2).micro_batch(one) == pytest.approx(by_products / 2)
    heavy = sheet(weight_bytes=10**12)
    assert heavy.micro_batch(one) == pytest.approx(2e12 / gpu.bytes_per_second)
    link = sheet(offloaded_bytes=10**9)
    extra = link.micro_batch(one) - by_products
    assert extra == pytest.approx(2e9 / gpu.link_bytes_per_second)
    assert "not measured" in sheet().how
    single = sheet(dtype=torch.float32)
    assert single.micro_batch(one) == pytest.approx(by_products * 989 / 67)
    assert "989 TFLOP/s in bfloat16" in sheet().how and "67 TFLOP/s in float32" in single.how


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_gpu_has_the_rate_of_the_dtype_that_it_computes_in(
    name: str, dtype: str, llama: Path
) -> None:
    gpu, rows = GPUS[name], Sets(examples(8), np.ones(8))
    rates = {"bfloat16": gpu.flops_per_second, "float32": gpu.float32_flops_per_second}
    assert (rates["bfloat16"] == rates["float32"]) == (name in WITHOUT_BFLOAT16)
    assert rates["bfloat16"] >= rates["float32"]
    planned = plan(recipe_of(llama, base={"dtype": dtype}, adapter={"r": 4}), sets=rows, gpu=name)
    assert f"{rates[dtype] / 1e12:g} TFLOP/s in {dtype}" in planned.duration.how


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_this_machine_is_timed_on_a_few_layers(
    quantization: str, use_dora: bool, llama: Path
) -> None:
    rows = examples(40)
    recipe = recipe_of(
        llama, base={"quantization": quantization}, adapter={"r": 4, "use_dora": use_dora}
    )
    state = torch.random.get_rng_state()
    planned = plan(
        recipe, sets=Sets(rows, np.ones(40), rows, {"x": rows}), timing=Timing(times_machine=True)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    seconds = planned.duration.seconds
    assert seconds is not None
    assert seconds.training > 0
    assert seconds.validation > 0
    assert seconds.evaluation > 0
    assert seconds.checkpoints > 0
    assert "timed on this machine" in planned.duration.how
    shown = planned.to_json()
    assert shown["seconds"] == pytest.approx(seconds.total, abs=1e-3)
    assert shown["flops"]["total"] > shown["flops"]["training"] > 0


@pytest.mark.parametrize("model_type", sorted(families.FAMILIES))
@pytest.mark.slow
def test_every_family_can_be_timed(model_type: str, tmp_path: Path) -> None:
    rows = examples(10, longest=30)
    recipe = recipe_of(families.folder(tmp_path, model_type), adapter={"r": 4})
    planned = plan(recipe, sets=Sets(rows, np.ones(10)), timing=Timing(times_machine=True))
    assert planned.duration.seconds is not None, planned.duration.how


def test_why_time_is_not_known(llama: Path) -> None:
    rows = Sets(examples(8), np.ones(8))
    assert "the rows are not here" in plan(recipe_of(llama)).duration.how
    assert "was not timed" in plan(recipe_of(llama), sets=rows).duration.how


def test_what_is_missing_is_what_is_told(llama: Path, tmp_path: Path) -> None:
    """Rows that are here are not said to be missing where it is the tokenizer."""
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(llama / "config.json", bare)
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "What is asthma?", "completion": "A disease."}\n' * 8)
    told = plan(recipe_of(bare, data={"train": str(data)}))
    assert told.duration.how == "not known: the tokenizer is not here"
    assert any("has no tokenizer" in note for note in told.notes)
    assert plan(recipe_of(bare)).duration.how == "not known: the rows are not here"
    whole = plan(recipe_of(llama, data={"train": str(data)}), timing=NOT_TIMED)
    assert "not here" not in whole.duration.how


def test_rows_of_a_hub_id_are_read_with_what_is_held_out_of_them(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such file is here, and yet nothing is missing."""
    data = tmp_path / "rows.jsonl"
    row = '{"prompt": "What is %d?", "completion": "A number."}\n'
    data.write_text("".join(row % n for n in range(40)))
    recipe = recipe_of(llama, data={"train": str(data), "validation": 0.5})
    monkeypatch.setattr(rows, "_absent", lambda sources: [sources])
    sets, problem = rows.read_sets(recipe, families.config("llama"))
    assert problem is None and sets is not None
    assert len(sets.train) + len(sets.evaluation["in_domain"]) == 40


def test_a_gpu_has_time_and_cost_from_its_data_sheet(llama: Path) -> None:
    rows = Sets(examples(40), np.ones(40))
    recipe = recipe_of(llama, base={"device": "auto"})

    def of(**options: Any) -> Plan:
        return plan(recipe, sets=rows, gpu="h100", timing=Timing(prices=load_prices(), **options))

    one, slow = of(), of(efficiency=0.01)
    assert one.duration.seconds is not None
    assert slow.duration.seconds is not None
    assert slow.duration.seconds.training > one.duration.seconds.training
    assert one.duration.cost is not None
    price = load_prices().gpu_hour["h100"].price
    assert one.duration.cost.amount == pytest.approx(one.duration.seconds.total / 3600 * price)


def test_a_gpu_that_is_here_has_a_cost(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is measured (stood in for by that of this CPU), its price is that of its name."""
    rows = Sets(examples(10), np.ones(10))
    monkeypatch.setattr("lorakit.plan.duration.machine_of", lambda device: "h200")
    timing = Timing(times_machine=True, prices=load_prices())
    found = plan(recipe_of(llama), sets=rows, timing=timing).duration
    assert found.seconds is not None and found.cost is not None
    price = load_prices().gpu_hour["h200"].price
    assert found.cost.amount == pytest.approx(found.seconds.total / 3600 * price)


def test_shorter_rows_are_the_same_rows() -> None:
    rows = examples(30)
    left = up_to_length(Sets(rows, np.arange(30.0)), 25)
    assert left.train.lengths.max() <= 25
    kept = np.flatnonzero(rows.lengths <= 25)
    assert left.repeats.tolist() == kept.tolist()
    assert left.train[0].input_ids.tolist() == rows[int(kept[0])].input_ids.tolist()


def test_the_verb_and_its_options(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"base": {"model": str(llama)}, "data": {"train": "none.jsonl"}}))
    for wrong in (
        ["--fit"],
        ["--budget", "1GB", "--fit", "--set", "adapter.r=4"],
        ["--output", "x.yaml"],
        ["--efficiency", "0.5"],
        ["--gpu", "h100", "--efficiency", "2"],
        ["--prices", str(tmp_path / "none.yaml")],
        ["--budget", "much"],
    ):
        assert main(["plan", str(path), *wrong]) == 2, wrong
    capsys.readouterr()
    with pytest.raises(InputError, match="no such file"):
        load_prices(tmp_path / "none.yaml")
    assert main(["plan", str(path), "--gpu", "h100", "--gpus", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["seconds"] is None
    assert shown["fit"]["fits"]
