"""Answers that end without a stop token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "stop-token-never-trained"
SEVERITIES = ("error",)
TITLE = "Answers that end without a stop token"
REASON = (
    "What ends an answer has to be trained, or the model never stops. lorakit trains the stop "
    "token of every turn; a template that writes none, or one whose turns end in ordinary "
    "text, leaves nothing to learn."
)
SOURCE = "trl#2059, trl#3091, LLaMA-Factory#7454, trl#1414"
EXAMPLE = "data: {chat_template: no_stop.jinja}   # {{ message['content'] }} and nothing after it"
MEND = "Write the end-of-turn token after the content of assistant messages in the template."

MAX_ROWS = 200
MIN_SHARE = 0.5  # of the rows that must end in a control token


def find(facts: Facts) -> Iterator[Finding]:
    examples = facts.sets.train.examples
    picked = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), MAX_ROWS)).round())
    stopping = 0
    for i in picked.astype(int):
        example = examples[int(i)]
        last = int(np.flatnonzero(example.loss_weights)[-1])
        tail = example.input_ids[max(0, last - 1) : last + 1]  # a line break may follow the stop
        stopping += bool(np.isin(tail, facts.control_ids).any())
    if stopping < MIN_SHARE * len(picked):
        message = (
            f"train: {len(picked) - stopping} of {len(picked)} rows looked at end without a control token "
            "that is trained: the model will not know when to stop; let the chat template write the "
            "end-of-turn token after assistant messages"
        )
        yield Finding(ID, "error", message, "data.chat_template")
