"""Timings of a machine that is disturbed come out as those of one that is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lorakit.adapters.attach import attach_adapter
from lorakit.base import load_time
from lorakit.base.config import model_config, read_config
from lorakit.base.meta_model import empty_model
from lorakit.data.examples import Example, examples_in_memory
from lorakit.engine.model_flops import count_flops
from lorakit.engine.passes import Pass
from lorakit.plan import duration, plan
from lorakit.plan.rows import Sets
from lorakit.recipe import LoraConfig, TrainSection, parse_recipe
from lorakit.train.calibrate import calibrate
from lorakit.train.choices import Division
from lorakit.train.least_times import MAX_ROUNDS, MIN_ROUNDS, in_turns, were_disturbed
from lorakit.train.pass_timer import PassTimer
from lorakit.train.rates import Curve, Rates
from lorakit.train.settings import LoopSettings
from tests import families
from tests.train.test_calibrate import empty


class Machine:
    """Its clock goes on by what work takes; in each moment that is disturbed, by 40 times that."""

    def __init__(self, disturbed: Callable[[float], bool]) -> None:
        self.time = 0.0
        self._disturbed = disturbed

    def work(self, seconds: float) -> float:
        took = seconds * (40 if self._disturbed(self.time) else 1.01)
        self.time += took
        return took


@pytest.mark.parametrize("seed", range(20))
def test_a_third_of_the_moments_may_be_disturbed(seed: int) -> None:
    """Every piece has had a quiet moment: among eight timings, but for one case in thousands."""
    draw = random.Random(seed)
    machine = Machine(lambda _: draw.random() < 1 / 3)
    wanted = {"short": 0.01, "middling": 0.1, "long": 0.4}
    works = {name: lambda s=seconds: machine.work(s) for name, seconds in wanted.items()}
    times = in_turns(works, until=1e9, now=lambda: machine.time)
    assert {len(took) for took in times.values()} == {MAX_ROUNDS}
    assert {name: min(took) for name, took in times.items()} == pytest.approx(wanted, rel=0.2)


@pytest.mark.parametrize("start", [0.0, 0.05, 0.3, 0.51, 1.0])
def test_one_long_disturbance_spoils_no_rate(start: float) -> None:
    """A burst of seconds that covers a whole round, with no time left: three rounds are made."""
    machine = Machine(lambda moment: start <= moment < start + 10)
    wanted = {"a": 0.1, "b": 0.2, "c": 0.21}
    works = {name: lambda s=seconds: machine.work(s) for name, seconds in wanted.items()}
    times = in_turns(works, until=0.0, now=lambda: machine.time)
    assert {len(took) for took in times.values()} == {MIN_ROUNDS}
    assert {name: min(took) for name, took in times.items()} == pytest.approx(wanted, rel=0.2)
    assert not were_disturbed(times["a"])


def test_timings_that_do_not_agree_are_told() -> None:
    assert were_disturbed([4.0, 0.1, 0.5])
    assert not were_disturbed([4.0, 0.1, 0.25])
    assert not were_disturbed([4e-3, 1e-5, 9e-5]), "that is how exact a clock is"


def test_more_work_takes_no_less() -> None:
    """A small piece that was disturbed neither makes a slope negative nor a start too long."""
    curve = Curve.through({1.0: 50.0, 2.0: 2.0, 4.0: 4.0})
    assert curve.seconds == (2.0, 2.0, 4.0)
    assert all(0 < curve.at(size) <= 2 for size in (0.1, 0.5, 1.5))
    assert Curve.through({1.0: 1.0, 2.0: 2.0}).seconds == (1.0, 2.0)


def test_rates_of_a_disturbed_machine_are_those_of_a_quiet_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole calibration, on a clock by which each pass takes a microsecond a token."""
    whole = empty(tmp_path, "llama")
    adapter = attach_adapter(whole, LoraConfig(r=4, use_dora=True))
    flops = count_flops(whole, adapter, 4)
    settings = LoopSettings.from_section(TrainSection(), packing=True)
    division = Division(128, "none", None, True, False)
    passes = [Pass(n, n // 2, (n,)) for n in (20, 60, 100)]

    def rates(machine: Machine) -> Rates:
        def timed(self: PassTimer, batch: object, **_: object) -> float:
            tokens = batch.input_ids.numel() if hasattr(batch, "input_ids") else batch
            return machine.work(1e-3 * float(tokens))

        for name in ("_train", "_forward"):
            monkeypatch.setattr(PassTimer, name, timed)
        monkeypatch.setattr(PassTimer, "_head", lambda self, n, train: machine.work(1e-3 * n))
        cpu = torch.device("cpu")
        found = calibrate(whole, adapter, flops, settings, division, passes, device=cpu)
        assert isinstance(found, Rates)
        return found

    quiet = rates(Machine(lambda _: False))
    draw = random.Random(3)
    busy = rates(Machine(lambda _: draw.random() < 1 / 3))
    for name in ("decode", "decode_head"):
        assert getattr(busy, name) == pytest.approx(getattr(quiet, name), rel=0.2)
    for one, other in ((busy.head, quiet.head), (busy.kinds[0].train, quiet.kinds[0].train)):
        assert one.seconds == pytest.approx(other.seconds, rel=0.2)
    assert busy.kinds[0].norms == pytest.approx(0.0, abs=0.2 * quiet.kinds[0].train.seconds[0])


@pytest.mark.parametrize("disturbed", [False, True])
def test_compiling_and_interruptions_are_not_multiplied_in_a_load(
    disturbed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling takes 100 s, by a clock that stands still but for packing, at 1 us a number."""
    folder = families.folder(tmp_path, "llama")
    config = model_config(read_config(folder / "config.json"))
    whole = empty_model(config, quantization="nf4", dtype=torch.float32)
    packed = load_time.packed_weights(whole)
    now, calls = [0.0], [0]

    def pack(_: object, matrix: torch.Tensor) -> None:
        calls[0] += 1
        slow = disturbed and calls[0] % 4 == 3
        now[0] += matrix.numel() * (40e-6 if slow else 1e-6) + (100 if calls[0] == 1 else 0)

    monkeypatch.setattr(type(packed[0]), "pack_like", pack)
    clock = SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0])
    monkeypatch.setattr(load_time, "time", clock)
    cpu = torch.device("cpu")
    seconds = load_time.time_loading(
        folder, whole, as_stored=False, dtype=torch.float32, device=cpu
    )
    assert calls[0] >= load_time.MIN_TENSORS
    expected = 1e-6 * sum(stored.shape.numel() for stored in packed)
    assert seconds - 100 == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("disturbed", [False, True])
def test_the_plan_says_that_the_machine_was_busy(
    disturbed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*given: object, **options: object) -> Rates | str:
        found = calibrate(*given, **options, seconds=0.0)  # type: ignore[arg-type]
        assert isinstance(found, Rates)
        return replace(found, disturbed=disturbed)

    monkeypatch.setattr(duration, "calibrate", timed)
    rows = examples_in_memory([Example(np.arange(9, dtype=np.int32), np.ones(9, np.float32))] * 8)
    base = {"model": str(families.folder(tmp_path, "llama")), "device": "cpu"}
    recipe = parse_recipe({"base": base, "data": {"train": "no/rows.jsonl"}})
    timing = duration.Timing(times_machine=True)
    planned = plan.plan(recipe, sets=Sets(rows, np.ones(8)), timing=timing)
    assert (plan.BUSY in planned.notes) is disturbed
