"""Intervals and costs: the same as evaluation's, paired, and in one unit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lorakit.compare.costs import Costs, training_seconds
from lorakit.compare.prompts import WAYS
from lorakit.compare.recommend import Terms
from lorakit.compare.table import SetUp, WayRow, conclude, qualities
from lorakit.errors import InputError, RunError
from lorakit.evaluate.judge import Scores, judge
from lorakit.plan.machines import machine_of
from lorakit.plan.prices import load_prices
from lorakit.train.losses import ExampleLosses
from tests.compare.made import measured, questions

NUM = 40


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.random(NUM) for name in ("a", "b", "c", "weights")}


def test_two_ways_are_compared_as_an_evaluation_compares(values: dict[str, np.ndarray]) -> None:
    asked = questions(values["weights"].tolist())
    weights = np.array([one.answer_weights.sum() for one in asked], np.float64)
    ways = [
        measured("base", {"loss": values["a"], "token_f1": values["b"]}),
        measured("tuned", {"loss": values["b"], "token_f1": values["c"]}),
    ]
    found = qualities(ways, asked, seed=3)
    expected = judge(
        ExampleLosses(values["a"], weights),
        ExampleLosses(values["b"], weights),
        metrics=["loss", "token_f1"],
        primary="loss",
        margin=None,
        scores={"token_f1": Scores(values["b"], values["c"])},
        seed=3,
    ).metrics
    for metric, comparison in expected.items():
        base, tuned = found["base"][metric], found["tuned"][metric]
        assert (base.mean, tuned.mean) == pytest.approx((comparison.base, comparison.tuned))
        difference, interval = tuned.differences["base"]
        assert difference == pytest.approx(comparison.difference)
        assert interval == pytest.approx(comparison.interval)
        for quality in (base, tuned):
            low, high = quality.interval
            assert low < quality.mean < high
    assert "base" not in found["base"]["loss"].differences


def test_equal_answers_differ_by_nothing_at_all(values: dict[str, np.ndarray]) -> None:
    ways = [measured(name, {"token_f1": values["a"]}) for name in ("base", "retrieval", "tuned")]
    found = qualities(ways, questions([1] * NUM), seed=0)
    for name in ("retrieval", "tuned"):
        assert found[name]["token_f1"].differences["base"] == (0.0, (0.0, 0.0))


def test_many_ways_need_wider_intervals_against_the_best(values: dict[str, np.ndarray]) -> None:
    def against_best(names: list[str]) -> tuple[float, float]:
        lower = {name: values["a"] - 0.01 * n for n, name in enumerate(names)}
        lower["base"] = values["b"] - 1
        ways = [measured(name, {"token_f1": lower[name]}) for name in names]
        return qualities(ways, questions([1] * NUM), seed=0)["base"]["token_f1"].differences[
            "best"
        ][1]

    few, many = against_best(["tuned", "base"]), against_best([w.name for w in reversed(WAYS)])
    assert many[0] < few[0] and few[1] < many[1]


@pytest.mark.parametrize(("few_shot", "against"), [(0.0, None), (0.8, "few_shot")])
def test_tuning_is_repaid_only_against_what_is_good_enough(
    few_shot: float, against: str | None
) -> None:
    scores = {"base": 0.0, "few_shot": few_shot, "tuned": 0.8}
    found = [measured(name, {"token_f1": np.full(40, score)}) for name, score in scores.items()]
    quality = qualities(found, questions([1.0] * 40), seed=0)
    rows = [
        WayRow(
            one,
            quality[one.way.name],
            0.001 if one.way.is_tuned else 0.004,
            SetUp({}, 3.0 if one.way.is_tuned else 0.0),
        )
        for one in found
    ]
    told, held, repaid = conclude(rows, "token_f1", Terms(40, 0.05, 10, "token_f1", True, "USD"))
    assert "tuned" in told.good_enough and held == against
    assert repaid == ({} if against is None else {"tuned": 1000})


def test_a_value_that_is_no_number_names_its_way(values: dict[str, np.ndarray]) -> None:
    broken = values["b"].copy()
    broken[3] = np.nan
    ways = [measured("base", {"loss": values["a"]}), measured("tuned", {"loss": broken})]
    with pytest.raises(RunError, match="loss of tuned is no finite number"):
        qualities(ways, questions([1] * NUM), seed=0)


SECONDS = {"training": 7200.0, "indexing documents": 36.0, "indexing examples": 3.6}


def test_a_machine_with_a_price_is_paid_by_its_time(tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text("cpu_hour: {price: 0.5, date: 2026-01-02}\n")
    costs = Costs("cpu", load_prices(table), None)
    one = measured("tuned", {"token_f1": np.zeros(10)}, seconds=36.0)
    assert costs.per_call(one) == pytest.approx(3.6 / 3600 * 0.5)
    by_way = {way.name: costs.setup(way, SECONDS) for way in WAYS}
    assert by_way["base"].cost == 0 and dict(by_way["base"].seconds) == {}
    assert by_way["tuned"].cost == pytest.approx(1.0)
    assert by_way["tuned_retrieval"].cost == pytest.approx(1.0 + 0.005)
    assert dict(by_way["few_shot"].seconds) == {"indexing examples": 3.6}
    assert (
        costs.basis.unit == "USD" and "0.5 USD an hour, looked up on 2026-01-02" in costs.basis.call
    )


def test_with_an_api_calls_cost_their_tokens_and_set_up_the_machine() -> None:
    prices = load_prices()
    costs = Costs("cpu", prices, "gpt-4.1")
    one = measured("few_shot", {"token_f1": np.zeros(10)}, prompt=1000, answer=100)
    price = prices.api["gpt-4.1"]
    assert costs.per_call(one) == pytest.approx((1000 * price.input + 100 * price.output) / 1e6)
    hour = prices.of_machine("cpu", 3600)
    assert hour is not None and costs.setup(WAYS[3], SECONDS).cost == pytest.approx(2 * hour.amount)
    assert "per million input and output tokens" in costs.basis.call


def test_a_machine_without_a_price_is_reckoned_in_its_seconds() -> None:
    costs = Costs("Some Card 9000", load_prices(), None)
    assert costs.basis.unit == "machine-seconds"
    one = measured("base", {"token_f1": np.zeros(10)}, seconds=20.0)
    assert costs.per_call(one) == 2.0 and costs.setup(WAYS[3], SECONDS).cost == 7200.0
    with pytest.raises(InputError, match="has none in"):
        Costs("Some Card 9000", load_prices(), "gpt-4.1")
    assert machine_of(torch.device("cpu")) == "cpu"


def test_a_gpu_that_is_here_has_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that its driver says, and with what CUDA reports of its memory."""
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200")
    reported = SimpleNamespace(total_memory=150_109_880_320)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: reported)
    prices = load_prices()
    costs = Costs(machine_of(device), prices, "gpt-4.1")
    assert costs.basis.unit == prices.currency
    assert costs.of_seconds(3600) == prices.gpu_hour["h200"].price
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some Card 9000")
    assert machine_of(device) == "Some Card 9000"


@pytest.mark.parametrize("content", [None, "", "{}\n", "no json\n", '{"seconds": null}\n'])
def test_a_run_that_does_not_say_how_long_it_trained(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunError, match="does not say how long the run trained"):
        training_seconds(path)
    path.write_text('{"seconds": 1}\n{"seconds": 2.5}\n')
    assert training_seconds(path) == 2.5
