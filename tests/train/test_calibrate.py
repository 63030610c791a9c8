"""One layer of each kind is timed, with the adapter that is attached, and counted as often as it is
there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import Attached, attach_adapter
from lorakit.adapters.store import load_adapter, save_adapter
from lorakit.base.config import model_config, read_config
from lorakit.base.load import load_base
from lorakit.base.load_time import time_loading
from lorakit.base.meta_model import empty_model
from lorakit.engine.layer_kinds import places_by_kind
from lorakit.engine.model_flops import count_flops
from lorakit.engine.passes import Pass
from lorakit.engine.recompute import RecomputePolicy
from lorakit.engine.sample import attach_like, sample_model
from lorakit.plan.machines import Measured
from lorakit.recipe import LoraConfig, TrainSection
from lorakit.train.calibrate import calibrate
from lorakit.train.choices import Division
from lorakit.train.rates import Curve, LayerRates, Rates
from lorakit.train.settings import LoopSettings
from tests import families

CPU = torch.device("cpu")
NONE = RecomputePolicy("none")
FLAT = Curve((1.0,), (0.0,))


def empty(folder: Path, model_type: str) -> PreTrainedModel:
    where = families.folder(folder, model_type)
    return empty_model(model_config(read_config(where / "config.json")), dtype=torch.float32)


def sample_of(model: PreTrainedModel, places: list[int]) -> PreTrainedModel:
    return sample_model(
        model.config, places, vocab_size=64, like=None, dtype=torch.float32, device=CPU
    )


def parameters_in(adapter: Attached, place: int) -> int:
    return sum(p.numel() for name, p in adapter.parameters().items() if f"layers.{place}." in name)


@pytest.mark.parametrize("model_type", ["deepseek_v2", "gemma3_text", "qwen3_next", "jamba"])
def test_layers_that_differ_are_built_as_they_are(model_type: str, tmp_path: Path) -> None:
    whole = empty(tmp_path, model_type)
    adapter = attach_adapter(whole, LoraConfig(r=4))
    kinds = places_by_kind(whole)
    assert len(kinds) > 1
    for places in kinds:
        sample = sample_of(whole, places)
        built = attach_like(sample, whole, adapter, places)
        assert built.trainable == sum(parameters_in(adapter, place) for place in places)
        (kind,) = places_by_kind(sample)
        assert len(kind) == len(places)
        own, theirs = (
            {name: tuple(p.shape) for name, p in model.named_parameters() if ".layers." in name}
            for model in (sample, whole)
        )
        wanted = [
            shape
            for name, shape in theirs.items()
            if any(f".layers.{place}." in name for place in places)
        ]
        assert sorted(own.values()) == sorted(wanted)


def test_ranks_are_those_of_the_adapter_that_is_attached(tmp_path: Path) -> None:
    """Saved with a rank of its own in one layer: neither the default's nor one for all."""
    folder = families.folder(tmp_path, "llama")
    model, _ = load_base(folder, dtype=torch.float32, device="cpu")
    config = LoraConfig(
        r=3, target_modules=["q_proj", "down_proj"], rank_pattern={"layers.1.mlp.down_proj": 5}
    )
    attach_adapter(model, config)
    save_adapter(model, tmp_path / "saved")
    whole = empty_model(model_config(read_config(folder / "config.json")), dtype=torch.float32)
    adapter = load_adapter(whole, tmp_path / "saved")
    built = attach_like(sample_of(whole, [1]), whole, adapter, [1])
    assert {name.rpartition(".")[2]: facts.r for name, facts in built.adapted.items()} == {
        "q_proj": 3,
        "down_proj": 5,
    }


def test_an_adapter_in_the_last_layer_alone_can_be_timed(tmp_path: Path) -> None:
    """Below it nothing has a gradient: those layers are timed without a backward pass."""
    whole = empty(tmp_path, "llama")
    config = LoraConfig(r=4, target_modules=["v_proj"], layers_to_transform=[1])
    adapter = attach_adapter(whole, config)
    flops = count_flops(whole, adapter, 4)
    settings = LoopSettings.from_section(TrainSection(), packing=True)
    division = Division(128, "none", None, True, False)
    one = Pass(60, 20, (30, 30))
    rates = calibrate(whole, adapter, flops, settings, division, [one], device=CPU, seconds=0.5)
    assert isinstance(rates, Rates), rates
    assert rates.kind_of == (0, 1)
    below, above = rates.kinds
    assert below.norms == 0
    size = [layer.of_training(one, "none").total for layer in flops.layers]
    assert below.train.at(size[0]) > 0
    assert above.train.at(size[1]) > 0


def test_every_layer_costs_what_its_kind_does(tmp_path: Path) -> None:
    whole = empty(tmp_path, "deepseek_v2")
    adapter = attach_adapter(whole, LoraConfig(r=4))
    flops = count_flops(whole, adapter, 4)
    one = Pass(40, 0, (40,))
    sizes = [layer.of_training(one, "none").total for layer in flops.layers]
    kinds = tuple(
        LayerRates(Curve((size,), (seconds,)), FLAT, 0.25, 0.0)
        for size, seconds in zip(sizes, (1.0, 10.0), strict=True)
    )
    rates = Rates(kinds, (0, 1), FLAT, FLAT, 2.0, 0.0, 0.5, NONE, "")
    machine = Measured(flops, rates)
    assert machine.micro_batch(one) == pytest.approx(11.0)
    assert machine.step == 2.5
    assert machine.decode(1) == 0.5


def test_layers_add_up_to_the_model(tmp_path: Path) -> None:
    whole = empty(tmp_path, "deepseek_v2")
    adapter = attach_adapter(whole, LoraConfig(r=4))
    flops = count_flops(whole, adapter, 4)
    one = Pass(50, 10, (20, 30))
    dense, sparse = flops.layers
    assert dense.forward != sparse.forward
    parts = [layer.of_training(one, "full") for layer in flops.layers]
    assert flops.in_layers(one, RecomputePolicy("full")).total == pytest.approx(
        sum(part.total for part in parts)
    )


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_loading_is_timed_on_the_files(quantization: str, tmp_path: Path) -> None:
    folder = families.folder(tmp_path, "llama")
    config = model_config(read_config(folder / "config.json"))
    whole = empty_model(config, quantization=quantization, dtype=torch.float32)
    seconds = time_loading(folder, whole, as_stored=False, dtype=torch.float32, device=CPU)
    assert 0 < seconds < 60
    (folder / "model.safetensors").write_bytes(np.zeros(64, np.uint8).tobytes())
    with pytest.raises(Exception, match="broken"):
        time_loading(folder, whole, as_stored=False, dtype=torch.float32, device=CPU)
