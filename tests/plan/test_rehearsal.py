"""A rehearsal without data counts what a pass with data allocates."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached, attach_adapter
from lorakit.base import config as base_config
from lorakit.base.empty import empty_model
from lorakit.base.families import why_not_packed
from lorakit.base.head import backbone_hidden
from lorakit.data.examples import MicroBatch
from lorakit.data.pack import collate
from lorakit.engine.activations import decoder_layers
from lorakit.engine.recompute import Level, RecomputePolicy
from lorakit.plan.heap import Heap
from lorakit.plan.ledger import Ledger
from lorakit.plan.rehearsal import BatchShape, Layers, PassBytes, asks_for_data, batch_of, rehearse
from lorakit.recipe import LoraConfig
from lorakit.train.batches import row_keys
from lorakit.train.choices import kept_by_layers
from lorakit.train.modes import training_mode
from lorakit.train.step import nll_of_hidden
from tests import families
from tests.adapters.bases import perturb
from tests.train.runs import ragged_examples

EXAMPLES = ragged_examples(5)
NUM_LAYERS = 6  # more of a kind than are run
SMALL = 4096  # bytes: of host tensors, generator states and other trifles
# Their code goes on by values that follow from data alone: jetmoe's by how many tokens each expert
# gets, in whatever layout; padded, gpt2's by token ids, biogpt's by a mask of fractional numbers.
ONLY_ESTIMATED = {("jetmoe", True), ("jetmoe", False), ("gpt2", False), ("biogpt", False)}


def shape_of(packed: bool) -> BatchShape:
    lengths = tuple(example.num_tokens for example in map(EXAMPLES.__getitem__, range(5)))
    return BatchShape(lengths, int(EXAMPLES.trained_lengths.sum()), packed)


def with_data(
    model: PreTrainedModel, adapter: Attached, micro_batch: MicroBatch, policy: RecomputePolicy
) -> PassBytes:
    """The same micro-batch on a model with data, tensors counted in the same way."""
    for parameter in adapter.parameters().values():
        parameter.grad = torch.zeros_like(parameter)
    known = [*model.parameters(), *model.buffers()]
    known += [p.grad for p in adapter.parameters().values() if p.grad is not None]
    with training_mode(model, adapter, policy) as recompute:
        recompute.prepare(micro_batch.input_ids.numel())
        gc.collect()
        with Ledger(1, known) as ledger:
            adapter.dropout.rows = row_keys(micro_batch, 0, 0)
            hidden = backbone_hidden(model, micro_batch)
            kept, forward = ledger.live, ledger.peak
            ledger.begin_phase()
            loss, _ = nll_of_hidden(model, hidden, micro_batch)
            of_loss = ledger.peak
            del hidden
            ledger.begin_phase()
            loss.backward()
    return PassBytes(kept, forward, of_loss, ledger.peak, [])


def pair(model_type: str, config: LoraConfig, **overrides: int):
    """A model with data and one without, both adapted."""
    real = families.build(model_type, **overrides)
    adapter = attach_adapter(real, config)
    perturb(real)
    empty = empty_model(families.config(model_type, **overrides), dtype=torch.float32)
    return real, adapter, empty, attach_adapter(empty, config)


def layouts(model_type: str) -> list[bool]:
    """Whether examples may share a row, and that they need not."""
    return [True, False] if why_not_packed(families.config(model_type)) is None else [False]


LAYOUTS = [(name, packed) for name in sorted(families.FAMILIES) for packed in layouts(name)]


def compare(model_type: str, policy: RecomputePolicy, *, packed: bool, **config: Any) -> None:
    """Both ways of one family."""
    real, adapter, empty, of_empty = pair(
        model_type, LoraConfig(r=4, target_parameters=[], **config)
    )
    check(policy, real, adapter, empty, of_empty, packed=packed)


def check(
    policy: RecomputePolicy,
    real: PreTrainedModel,
    adapter: Attached,
    empty: PreTrainedModel,
    of_empty: Attached,
    *,
    packed: bool,
) -> None:
    """That a model without data takes what the same with data takes."""
    examples = [EXAMPLES[i] for i in range(5)]
    micro_batch = collate(examples, range(5), packed=packed, pad_id=0)
    planned = rehearse(empty, of_empty, shape_of(packed), policy)
    is_as_measured(planned, with_data(real, adapter, micro_batch, policy), policy, real)


def is_as_measured(
    planned: PassBytes, measured: PassBytes, policy: RecomputePolicy, real: PreTrainedModel
) -> None:
    slack = SMALL  # of what differs, host tensors of a few bytes
    if policy.level == "full":  # PyTorch's checkpoint keeps the generator's state for each layer
        slack += len(decoder_layers(real)) * torch.get_rng_state().numel()
    assert planned.kept == pytest.approx(measured.kept, rel=0.05, abs=slack)
    assert planned.peak == pytest.approx(measured.peak, rel=0.05, abs=slack)


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "packed"), LAYOUTS)
def test_planned_activations_are_those_that_autograd_keeps(model_type: str, packed: bool) -> None:
    if (model_type, packed) in ONLY_ESTIMATED:
        with pytest.raises(RuntimeError) as caught:
            compare(model_type, RecomputePolicy("none"), packed=packed)
        assert asks_for_data(caught.value)
    else:
        compare(model_type, RecomputePolicy("none"), packed=packed)


@pytest.mark.parametrize("model_type", families.COMPOSITES)
def test_models_of_pictures_and_text_are_rehearsed(model_type: str) -> None:
    """Their rows are padded, with a mask and with positions, whose values the model asks for."""
    config = base_config.model_config(families.composite(model_type).to_dict())
    assert why_not_packed(config) is not None
    real, empty = families.built(config), empty_model(config, dtype=torch.float32)
    pairs = [(model, attach_adapter(model, LoraConfig(r=4))) for model in (real, empty)]
    (_, adapter), (_, of_empty) = pairs
    check(RecomputePolicy("none"), real, adapter, empty, of_empty, packed=False)


@pytest.mark.parametrize("level", ["none", "selective", "full"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_every_level_of_recompute_is_rehearsed(level: Level, use_dora: bool) -> None:
    policy = RecomputePolicy(level)
    compare("llama", policy, packed=True, use_dora=use_dora, lora_dropout=0.1)


@pytest.mark.parametrize("level", ["none", "selective"])
def test_prompts_that_are_shared_are_rehearsed(level: Level) -> None:
    """Attention sees each for all of its completions, of which the row knows nothing."""
    real, adapter, empty, of_empty = pair("llama", LoraConfig(r=4))
    shape = BatchShape((40,) * 9, 9 * 10, True, ((0, 30),) * 5 + ((1, 30),) * 4)
    micro_batch, policy = batch_of(shape, "cpu"), RecomputePolicy(level)
    assert shape.num_tokens == micro_batch.input_ids.numel() == 2 * 30 + 9 * 10
    assert len(micro_batch.targets) == shape.num_trained
    planned = rehearse(empty, of_empty, shape, policy)
    is_as_measured(planned, with_data(real, adapter, micro_batch, policy), policy, real)
    alone = rehearse(empty, of_empty, BatchShape((150,), 90, True), policy)
    assert planned.backward > alone.backward


def test_padded_layers_are_recomputed_as_they_were_computed() -> None:
    compare("llama", RecomputePolicy("full"), packed=False)


def test_layers_that_are_stood_in_for_keep_what_those_that_run_keep() -> None:
    """A model of nine layers, three of them run, and the same with every layer run."""
    config = families.config("qwen3", num_hidden_layers=9, layer_types=["full_attention"] * 9)
    model = empty_model(config, dtype=torch.float32)
    adapter = attach_adapter(model, LoraConfig(r=4))
    for level in ("none", "full"):
        few, every = (
            rehearse(model, adapter, shape_of(True), RecomputePolicy(level), heap=heap)
            for heap in (None, Heap())
        )
        assert few.kept == pytest.approx(every.kept, rel=0.02)
        assert few.peak == pytest.approx(every.peak, rel=0.02)
        assert len(few.events) < len(every.events)


@pytest.mark.parametrize("model_type", sorted(families.FAMILIES))
def test_what_layers_keep_is_found_of_the_first_of_each_kind(model_type: str) -> None:
    """The loop looks at every layer, and has to divide its steps as the plan did."""
    empty = empty_model(families.config(model_type), dtype=torch.float32)
    attach_adapter(empty, LoraConfig(r=4, rank_pattern={r".*\.0\..*": 8}))
    assert list(Layers.of(empty).bytes) == kept_by_layers(empty)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "packed"), [one for one in LAYOUTS if one not in ONLY_ESTIMATED]
)
def test_layers_that_are_set_aside_are_not_missed(model_type: str, packed: bool) -> None:
    """Whatever a family's code asks of layers that are not run, a pass keeps and takes the same."""
    short = families.config(model_type)
    per_layer = {
        name: (value * NUM_LAYERS)[:NUM_LAYERS]
        for name, value in short.to_dict().items()
        # Two layers, a lower and an upper limit, and what gate and down are scaled by, are two.
        if isinstance(value, list) and len(value) == short.num_hidden_layers
        if name not in ("time_step_limit", "mlp_multipliers")
    }
    config = families.config(model_type, **per_layer, num_hidden_layers=NUM_LAYERS)
    model = empty_model(config, dtype=torch.float32)
    adapter = attach_adapter(model, LoraConfig(r=4, target_parameters=[]))
    shape = shape_of(packed)
    few, every = (
        rehearse(model, adapter, shape, RecomputePolicy("none"), heap=heap)
        for heap in (None, Heap())
    )
    assert few.kept == pytest.approx(every.kept, rel=0.01)
    assert few.peak == pytest.approx(every.peak, rel=0.01)


def test_a_rehearsal_leaves_the_model_as_it_was() -> None:
    _, _, model, adapter = pair("llama", LoraConfig(r=4))
    tensors = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    modules = [type(module) for module in model.modules()]
    rehearse(model, adapter, shape_of(True), RecomputePolicy("full"))
    assert {id(tensor) for tensor in (*model.parameters(), *model.buffers())} == tensors
    assert [type(module) for module in model.modules()] == modules
    assert all(parameter.grad is None for parameter in adapter.parameters().values())
    assert not any("forward" in vars(module) for module in model.modules())


WITHOUT_DATA = (
    lambda: bool(torch.ones(2, device="meta").any()),
    lambda: torch.ones(2, device="meta").tolist(),
    lambda: torch.ones(2, device="meta").to("cpu"),
    lambda: torch.ones(2, device="meta").numpy(),
    lambda: torch.ones(2, device="meta").nonzero(),
)


@pytest.mark.parametrize("ask", WITHOUT_DATA)
def test_what_pytorch_says_of_missing_data_is_known(ask: Callable[[], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError)) as caught:
        ask()
    assert asks_for_data(caught.value)


def test_other_errors_are_not_taken_for_missing_data() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2, 3, device="meta") @ torch.ones(2, 3, device="meta")
    assert not asks_for_data(caught.value)


def test_values_that_follow_from_lengths_and_constants_are_known() -> None:
    with Ledger(1):
        mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).to("meta")
        positions = torch.arange(5, device="meta")
        assert (positions.diff() == 1).all()
        assert mask.sum() != mask.numel()
        mask[1] = 1
        assert mask.sum() == mask.numel()


def test_values_that_follow_from_data_are_not_known() -> None:
    numbers = torch.ones(3, dtype=torch.int64, device="meta")  # as a weight: from outside
    asked: list[Callable[[], torch.Tensor]] = [
        lambda: numbers.sum(),
        lambda: torch.zeros(2, device="meta").sum(),  # fractional, as whatever layers make
        lambda: torch.randint(3, (), device="meta"),
        lambda: torch.empty((), dtype=torch.int64, device="meta"),
        lambda: torch.zeros(3, dtype=torch.int64, device="meta").copy_(numbers).sum(),
    ]
    for ask in asked:
        with Ledger(1), pytest.raises(RuntimeError) as caught:
            ask().item()
        assert asks_for_data(caught.value)
