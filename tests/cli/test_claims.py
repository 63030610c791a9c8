"""The demo's claims: each fails exactly when its number says otherwise."""

from __future__ import annotations

import pytest

from lorakit.cli.claims import claims
from lorakit.evaluate.result import AnsweredExample, SetResult
from lorakit.evaluate.statistics import Comparison


def result(
    *,
    form: tuple[float, float] = (0.0, 0.95),
    content: float = 0.4,
    loss: tuple[float, float] = (-1.1, -0.9),
) -> SetResult:
    """A set of 30 answers whose scores spread by 0.2 around their mean."""
    spread = [content + 0.2 * (number % 3 - 1) for number in range(30)]
    answered = tuple(
        AnsweredExample(index, "q", "r", "b", "t", {"content": (0.0, score)})
        for index, score in enumerate(spread)
    )
    middle = sum(loss) / 2
    metrics = {
        "loss": Comparison(2.0, 2.0 + middle, middle, loss, 30),
        "outline": Comparison(*form, form[1] - form[0], (0.8, 1.0), 30, higher_is_better=True),
    }
    return SetResult(30, 30, metrics, "loss", "better", None, answered=answered)


def test_every_claim_holds_where_the_numbers_are_good() -> None:
    made = claims({"in_domain": result(), "out_of_domain": result()})
    assert len(made) == 8
    assert all(claim.holds for claim in made)
    assert str(made[0]).startswith("[holds] in_domain: 0% of the base's answers")


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (result(form=(0.11, 0.95)), "11% of the base's answers"),
        (result(form=(0.0, 0.89)), "89% of the tuned model's"),
        (result(content=0.01), "token F1"),
        (result(loss=(-1.0, 0.01)), "never trained on falls"),
    ],
)
@pytest.mark.parametrize("name", ["in_domain", "out_of_domain"])
def test_one_bad_number_breaks_its_claim_alone(name: str, bad: SetResult, told: str) -> None:
    broken = [
        claim
        for claim in claims({"in_domain": result(), "out_of_domain": result()} | {name: bad})
        if not claim.holds
    ]
    assert len(broken) == 1
    assert broken[0].text.startswith(f"{name}: ") and told in broken[0].text
    assert str(broken[0]).startswith("[DOES NOT HOLD]")
