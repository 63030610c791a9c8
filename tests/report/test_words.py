"""Numbers as people read them."""

from __future__ import annotations

import pytest

from lorakit.report import words
from lorakit.report.curves import short_rate


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0.000"),
        (0.0123, "0.0123"),
        (0.5, "0.500"),
        (-1.23456, "\u22121.235"),
        (13.504, "13.50"),
        (1437.2, "1,437"),
        (2.5e7, "2.50e+07"),
        (0.00001, "1.00e\u221205"),
        (None, "beyond a number"),
    ],
)
def test_amount(number: float | None, text: str) -> None:
    assert words.amount(number) == text


def test_a_change_has_its_sign() -> None:
    assert words.change(0.5) == "+0.500"
    assert words.change(-0.0012) == "\u22120.0012"
    assert words.interval(-0.5, None) == "\u22120.500 to beyond a number"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(None, "not known"), (12, "12 B"), (1 << 20, "1.0 MiB"), (3 << 29, "1.50 GiB")],
)
def test_size(num_bytes: int | None, text: str) -> None:
    assert words.size(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "not known"),
        (4.21, "4.2 s"),
        (59.6, "1 min 0 s"),
        (213, "3 min 33 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


def test_metrics_of_sampled_answers_keep_their_k() -> None:
    assert words.metric_name("math/pass@4") == "mathematics pass@4"
    assert words.metric_name("exact_match/majority@8") == "exact match majority@8"
    assert words.metric_name("a/b") == "a/b"
    assert words.bounds(0.25, 0.5) == "0.250 to 0.500"


def test_shares_lists_and_counts() -> None:
    assert words.share(1, 8) == "12.5 %"
    assert words.share(1, 2000) == "0.05 %"
    assert words.share(0, 0) == "0.0 %"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.listed(["a"]) == "a"
    assert words.counted(1, "row") == "1 row"
    assert words.counted(1200, "row") == "1,200 rows"
    assert words.count(None) == "not known"


@pytest.mark.parametrize(
    ("rate", "text"), [(2e-4, "2e-4"), (1.5e-4, "1.5e-4"), (0.0, "0"), (1.0, "1e0")]
)
def test_learning_rates_are_short(rate: float, text: str) -> None:
    assert short_rate(rate) == text
