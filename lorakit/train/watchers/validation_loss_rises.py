"""The validation loss rises again: the rows are learned by heart."""

from __future__ import annotations

from lorakit.data.contract import Finding
from lorakit.train.watched import Watched

ID = "validation-loss-rises"
METHODS = ("sft",)
SEVERITIES = ("warning", "note")
TITLE = "The validation loss rises again"
REASON = (
    "From where the loss on held-out rows rises while that of training falls on, the training rows "
    "are learned by heart, and the last weights are worse than earlier ones. It is said once, "
    "where two validations in a row, or the last one of the run, are more than 1 % above the "
    "lowest. Where train.early_stopping_patience keeps the best weights it is a note. Answers may "
    "still get better while their loss rises, as long as a model only grows surer: what "
    "`evaluation.json` measures decides."
)
SOURCE = "Prechelt, Early Stopping - But When? (1998); InstructGPT (arXiv 2203.02155), section 3.5"
EXAMPLE = "validation_loss 1.62, 1.55, 1.61, 1.70 after epochs 1 to 4"
MEND = (
    "Train for fewer epochs, or set train.early_stopping_patience: the best weights are then kept. "
    "More rows, a lower adapter.r or some adapter.lora_dropout put it off."
)

TREND = 0.01  # below it lies what another order of the data changes
IN_A_ROW = 2


def see(run: Watched) -> Finding | None:
    if "validation_loss" not in run.newest:
        return None
    lowest = min(run.validations, key=lambda line: float(line["validation_loss"]))
    limit = lowest["validation_loss"] * (1 + TREND)
    wanted = 1 if run.is_over else IN_A_ROW
    newest = run.validations[-wanted:]
    if len(newest) < wanted or any(line["validation_loss"] <= limit for line in newest):
        return None
    message = (
        f"validation loss was lowest at step {lowest['step']} ({lowest['validation_loss']:.4f}) "
        f"and is {run.newest['validation_loss']:.4f} now, while the training loss went from "
        f"{lowest['loss']:.4f} to {run.newest['loss']:.4f}; "
    )
    if run.settings.early_stopping_patience is not None:
        return Finding(ID, "note", f"{message}the weights of the lowest are kept", run.where)
    do = "train for fewer epochs, or set train.early_stopping_patience, which keeps the best"
    return Finding(ID, "warning", f"{message}{do}", run.where)
