"""What training rows are for, in the words of check's terminal, its page and a run's report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RowUse:
    """One way to use them.

    Attributes:
        title: above examples of them.
        share: what the tokens that have a loss are, behind their number and as a column's head.
        caption: what such tokens are for.
        legend: what of an example is marked.
    """

    title: str
    share: str
    caption: str
    legend: str


TRAINED = RowUse(
    title="What is trained",
    share="trained",
    caption="Only trained tokens enter the loss.",
    legend="what the loss is counted on; the rest is only read",
)
# Of a policy, whose training rows are questions.
ASKED = RowUse(
    title="What is asked",
    share="of answers",
    caption=(
        "Of training rows the question is asked; the answer is for rewards alone, and nothing of "
        "it is trained. Of a warm start's rows answers are trained; elsewhere losses are measured "
        "on them."
    ),
    legend="the answer, which rewards see; trained are completions that the model writes itself",
)


def row_use(*, is_policy: bool) -> RowUse:
    """Of a policy's training rows, or of rows that are trained on."""
    return ASKED if is_policy else TRAINED
