"""The price table: the examples, files of the user's own laid over them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.errors import InputError
from lorakit.plan.gpus import GPUS
from lorakit.plan.prices import CPU, load_prices, user_file


@pytest.fixture(autouse=True)
def no_file_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def _written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_examples_are_dated_and_marked_as_such() -> None:
    prices = load_prices()
    assert set(prices.gpu_hour) <= set(GPUS)
    assert prices.cpu_hour is not None
    for entry in (*prices.gpu_hour.values(), prices.cpu_hour, *prices.api.values()):
        assert "example" in entry.note
        assert entry.date.year >= 2024
    for entry in (*prices.gpu_hour.values(), *prices.api.values()):
        assert entry.source.startswith("https://")


def test_machines_cost_by_the_hour() -> None:
    prices = load_prices()
    one = prices.of_machine("h100", 3600)
    assert one is not None
    assert one.amount == prices.gpu_hour["h100"].price
    eight = prices.of_machine("h100", 1800, count=8)
    assert eight is not None
    assert eight.amount == pytest.approx(4 * one.amount)
    assert str(prices.gpu_hour["h100"].date) in one.basis
    assert prices.of_machine("l40s", 3600) is None  # no example has it


def test_calls_cost_by_the_million_tokens() -> None:
    price = load_prices().api_price("gpt-4o-mini")
    assert price.of_call(1_000_000, 0) == price.input
    assert price.of_call(500_000, 1_000_000) == pytest.approx(price.input / 2 + price.output)


def test_a_file_changes_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    path = _written(tmp_path / "mine.yaml", "gpu_hour: {RTX 4090: {price: 0.5, date: 2026-11-01}}")
    mine, examples = load_prices(path), load_prices()
    assert mine.gpu_hour["rtx4090"].price == 0.5
    assert mine.gpu_hour["h100"] == examples.gpu_hour["h100"]
    assert mine.source == path


def test_the_file_in_the_config_folder_is_read_unless_another_is_named(tmp_path: Path) -> None:
    _written(user_file(), "cpu_hour: {price: 7, date: 2026-11-01}")
    other = _written(tmp_path / "other.yaml", "cpu_hour: {price: 8, date: 2026-11-01}")
    found, named = load_prices().cpu_hour, load_prices(other).cpu_hour
    assert found is not None
    assert named is not None
    assert (found.price, named.price) == (7, 8)


def test_no_example_is_taken_for_another_currency(tmp_path: Path) -> None:
    prices = load_prices(_written(tmp_path / "euro.yaml", "currency: EUR"))
    assert not prices.gpu_hour
    assert not prices.api
    assert prices.of_machine(CPU, 3600) is None


def test_electricity_takes_the_place_of_a_rent(tmp_path: Path) -> None:
    text = "electricity: {price: 0.3, watts: {cpu: 65, rtx3090: 350}, date: 2026-11-01}"
    prices = load_prices(_written(tmp_path / "own.yaml", text))
    cost = prices.of_machine("rtx3090", 7200)
    assert cost is not None
    assert cost.amount == pytest.approx(2 * 0.350 * 0.3)
    rented, example = prices.of_machine("h100", 60), load_prices().of_machine("h100", 60)
    assert rented == example


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu_hours: {}", "Did you mean gpu_hour"),
        ("gpu_hour: {rtx409: {price: 1, date: 2026-01-01}}", "Did you mean rtx4090"),
        ("gpu_hour: {h100: {price: 1, prise: 1, date: 2026-01-01}}", "Did you mean price"),
        ("gpu_hour: {h100: {price: 1}}", "date is missing"),
        ("api: {x: {input: -1, output: 1, date: 2026-01-01}}", "api.x.input"),
        ("api: {x: {input: 1, output: .inf, date: 2026-01-01}}", "finite"),
        ("gpu_hour: 3", "gpu_hour"),
        ("[1]", "not keys with values"),
        ("electricity: {price: 1, watts: {h10: 1}, date: 2026-01-01}", "Did you mean h100"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_prices(_written(tmp_path / "bad.yaml", text))


def test_a_file_that_is_not_there_and_a_name_that_is_not_in_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_prices(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="Did you mean gpt-4o-mini"):
        load_prices().api_price("gpt-4o-mni")
