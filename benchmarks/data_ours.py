"""lorakit's side of `data_peers.py`, and the bare tokenizer."""

from __future__ import annotations

import statistics
import time
from typing import Any

from contest import Memory
from data_rows import Clock, load_tokenizer, read

from lorakit.data.conversation import Conversation
from lorakit.data.meanings import Meaning
from lorakit.data.prepare import Prepared, prepare_examples
from lorakit.data.reading import DataRules, read_meanings
from lorakit.data.render import Renderer
from lorakit.train.batches import StepBatches

BATCH_SIZE, TOKEN_BUDGET = 8, 4096
STEPS_TIMED = 200


def first_start(task: dict[str, Any], *, in_memory: bool) -> dict[str, float]:
    """From the file, or from rows that were read already, to the store and an epoch's order."""
    tokenizer = load_tokenizer(task["tokenizer"])
    source = read(task["data"]) if in_memory else task["data"]
    clock = Clock()
    prepared = prepare_examples(source, tokenizer, DataRules(), cache_dir=task["cache"])
    batches = _batches(prepared)
    return _result(clock, prepared) | {"step_ms": _step_ms(batches)}


def second_start(task: dict[str, Any]) -> dict[str, float]:
    """The store is there already: written by another process, opened by this one."""
    tokenizer = load_tokenizer(task["tokenizer"])
    clock = Clock()
    prepared = prepare_examples(task["data"], tokenizer, DataRules(), cache_dir=task["cache"])
    return _result(clock, prepared)


def growth(task: dict[str, Any]) -> dict[str, float]:
    """A first start, an epoch's order and batches, a second start; the peak is of all of it."""
    tokenizer = load_tokenizer(task["tokenizer"])
    clock = Clock()
    prepared = prepare_examples(task["data"], tokenizer, DataRules(), cache_dir=task["cache"])
    result = _result(clock, prepared)
    clock = Clock()
    batches = _batches(prepared)
    result["order_seconds"] = clock.result(1, 1)["seconds"]
    result["step_ms"] = _step_ms(batches)
    clock = Clock()
    prepare_examples(task["data"], tokenizer, DataRules(), cache_dir=task["cache"])
    result["second_seconds"] = clock.result(1, 1)["seconds"]
    return result | {"peak_bytes": Memory().peak()}


def bare(task: dict[str, Any]) -> dict[str, float]:
    """encode_batch on the texts that lorakit renders."""
    tokenizer = load_tokenizer(task["tokenizer"])
    template = Renderer(tokenizer).template
    meanings = read_meanings(task["data"], DataRules())
    texts = template.render_many([(_messages(meaning), (), False) for meaning in meanings])
    clock = Clock()
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return clock.result(len(texts), sum(map(len, encodings)))


def _messages(meaning: Meaning) -> tuple[dict[str, Any], ...]:
    conversation = meaning.conversation
    assert isinstance(conversation, Conversation), "every set of data_rows.py has conversations"
    return conversation.messages


def _batches(prepared: Prepared) -> StepBatches:
    return StepBatches(
        prepared.examples,
        prepared.repeats,
        batch_size=BATCH_SIZE,
        seed=0,
        token_budget=TOKEN_BUDGET,
        packed=True,
    )


def _result(clock: Clock, prepared: Prepared) -> dict[str, float]:
    return clock.result(prepared.kept, int(prepared.examples.lengths.sum()))


def _step_ms(batches: StepBatches) -> float:
    times = []
    for step in range(min(STEPS_TIMED, batches.steps_per_epoch)):
        started = time.perf_counter()
        batches[step]
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3
