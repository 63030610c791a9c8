"""What training rows are for, in the words of check's terminal, its page and a run's report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RowUse:
    """One way to use them.

    Attributes:
        title: above examples of them.
        counted: behind the number of tokens that have a loss.
        column: the head of a column of these numbers.
        caption: what such tokens are for.
        marks: what of an example is marked, in a line.
        legend: the same, beside examples on a page.
        has_trained_stops: whether the token that ends an answer is learned from them.
    """

    title: str
    counted: str
    column: str
    caption: str
    marks: str
    legend: str
    has_trained_stops: bool


TRAINED = RowUse(
    title="What is trained",
    counted="trained",
    column="Trained",
    caption="Only trained tokens enter the loss.",
    marks="what is trained",
    legend="what the loss is counted on; the rest is only read",
    has_trained_stops=True,
)
# Of a policy, whose training rows are questions.
ASKED = RowUse(
    title="What is asked",
    counted="of answers, which only rewards see",
    column="Answers",
    caption=(
        "Of training rows the question is asked; the answer is for rewards alone, and nothing of "
        "it is trained. Elsewhere losses are measured on it."
    ),
    marks="the answer, which rewards see and nothing trains",
    legend="the answer, which rewards see; trained are completions that the model writes itself",
    has_trained_stops=False,
)


def row_use(*, is_policy: bool) -> RowUse:
    """Of a policy's training rows, or of rows that are trained on."""
    return ASKED if is_policy else TRAINED
