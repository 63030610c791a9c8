"""Much of the computation is padding."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.base.families import why_not_packed
from lorakit.data.contract import Finding
from lorakit.data.pack import epoch_order, pack_padded
from lorakit.lint.facts import Facts

ID = "padding-waste"
SEVERITIES = ("warning", "note")
TITLE = "Much of the computation is padding"
REASON = (
    "Without packing, rows of a micro-batch are padded to the longest: with uneven lengths "
    "most of the work goes into padding. Packing loses nothing here: no example sees another. "
    "A note for families that cannot be packed."
)
SOURCE = "practice; Krell et al., Efficient Sequence Packing (arXiv 2107.02027)"
EXAMPLE = "data: {packing: false}   # rows of 20 to 2,000 tokens"
MEND = "Set data.packing: true."

TOLD, MUCH = 0.3, 0.5
MAX_BATCHES = 500


def find(facts: Facts) -> Iterator[Finding]:
    if facts.is_policy:  # of answers that are trained
        return
    cannot = why_not_packed(facts.config)
    if facts.recipe.data.packing and cannot is None:
        return
    share = _padding(facts)
    if share < TOLD:
        return
    severity = "warning" if share >= MUCH and cannot is None else "note"
    advice = "set data.packing: true" if cannot is None else f"this base is not packed: {cannot}"
    message = f"train: {share:.0%} of the tokens computed are padding; {advice}"
    yield Finding(ID, severity, message, "data.packing")  # type: ignore[arg-type]


def _padding(facts: Facts) -> float:
    """Share of padding where the rows of a micro-batch are padded to its longest."""
    train = facts.recipe.train
    lengths = facts.sets.train.examples.lengths
    order = epoch_order(len(lengths), facts.sets.train.repeats, train.seed, 0)
    real = padded = 0
    for start in range(0, min(len(order), MAX_BATCHES * train.batch_size), train.batch_size):
        batch = lengths[order[start : start + train.batch_size]]
        for group in pack_padded(batch.tolist(), train.forward_tokens):
            real += int(batch[group].sum())
            padded += len(group) * int(batch[group].max())
    return 1 - real / max(1, padded)
