"""The worst micro-batch first: it is the worst, and nothing of it stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lorakit.adapters.attach import attached
from lorakit.engine.activations import LayerBytes
from lorakit.engine.recompute import RecomputePolicy
from lorakit.errors import RunError
from lorakit.optimizers.optimizer import AdamW
from lorakit.train import worst_first
from lorakit.train.batches import StepBatches
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from lorakit.train.worst import worst_of_set, worst_of_steps
from tests.train import runs

TIMING = ("seconds", "tokens_per_second", "peak_bytes")


def outcome(folder: Path, run: Path, worst_batch_first: bool, **options: object):
    model = runs.adapted_model(folder, use_dora=True, lora_dropout=0.1)
    settings = LoopSettings(
        max_steps=3,
        batch_size=4,
        micro_batch_tokens=40,
        eval_steps=2,
        save_steps=2,
        worst_batch_first=worst_batch_first,
        **options,  # type: ignore[arg-type]
    )
    torch.manual_seed(3)
    result = train(
        model,
        runs.ragged_examples(11),
        settings,
        validation=runs.ragged_examples(4, seed=1),
        run_dir=run,
    )
    lines = [{k: v for k, v in line.items() if k not in TIMING} for line in result.metrics]
    return model, lines, torch.rand(()), result.optimizer


@pytest.mark.parametrize("optim", ["adamw_torch", "paged_adamw_8bit"])
def test_nothing_of_it_stays(tiny_folder: Path, tmp_path: Path, optim: str) -> None:
    with_it = outcome(tiny_folder, tmp_path / "a", True, optim=optim)
    without = outcome(tiny_folder, tmp_path / "b", False, optim=optim)
    assert with_it[1] == without[1]
    assert torch.equal(with_it[2], without[2])
    assert with_it[3] == without[3]  # the pages that moved, too
    assert (without[3]["pages_in"] > 0) == (optim != "adamw_torch")
    parameters = attached(without[0]).parameters()
    for name, parameter in attached(with_it[0]).parameters().items():
        assert torch.equal(parameter, parameters[name]), name
    checkpoints = [
        torch.cat([p.flatten() for p in attached(one[0]).parameters().values()])
        for one in (with_it, without)
    ]
    assert torch.equal(*checkpoints)


def test_a_rehearsed_update_changes_nothing() -> None:
    parameter = torch.nn.Parameter(torch.arange(6.0))
    optimizer = AdamW({"a": parameter})
    parameter.grad += 1
    optimizer.step(0.1, torch.zeros(()))
    optimizer.zero_grad()
    before = parameter.clone(), {n: t.clone() for n, t in optimizer.moments().items()}
    parameter.grad += float("inf")
    optimizer.rehearse()
    assert optimizer.num_steps == 1
    assert torch.equal(parameter, before[0])
    assert torch.equal(parameter.grad, torch.zeros(6))
    for name, moment in optimizer.moments().items():
        assert torch.equal(moment, before[1][name])
    parameter.grad += 1
    assert optimizer.step(0.1, torch.zeros(())).finite
    assert not torch.equal(parameter, before[0])


@pytest.mark.parametrize("packed", [True, False])
def test_the_worst_of_all_steps_is_found(packed: bool) -> None:
    examples = runs.ragged_examples(37)
    batches = StepBatches(
        examples, None, batch_size=5, seed=4, token_budget=60, packed=packed, pad_id=0
    )
    steps = range(2, 21)
    layers = [LayerBytes(100, 40, 10)] * 3
    budget = 60 * 150
    policy = RecomputePolicy("auto", budget)
    worst = worst_of_steps(batches, steps, policy=policy, layers=layers)
    sizes, kept = [], []
    for step in steps:
        for micro_batch in batches[step].micro_batches:
            tokens = micro_batch.input_ids.numel()
            levels = policy.levels(layers, tokens)
            sizes.append(tokens)
            kept.append(
                tokens * sum(getattr(one, lv) for one, lv in zip(layers, levels, strict=True))
            )

    def tokens_of(group: tuple[int, ...]) -> int:
        lengths = examples.lengths[list(group)]
        return int(lengths.sum() if packed else len(group) * lengths.max())

    found = [tokens_of(group) for group in worst.groups]
    assert found[0] == max(sizes)
    assert found[-1] == sizes[int(np.argmax(kept))] or max(kept) == kept[sizes.index(found[-1])]
    whole = worst_of_set(examples, token_budget=60, packed=packed)
    assert tokens_of(whole) >= max(sizes) - int(examples.lengths.max())


def test_a_run_that_does_not_fit_says_what_would(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(worst_first, "backward_with_room", refuse)
    with pytest.raises(RunError, match="largest micro-batch") as caught:
        outcome(tiny_folder, tmp_path, True)
    message = str(caught.value)
    assert "no step was done" in message
    assert "gradient_checkpointing: true" in message
    assert "data.max_length below" in message
    assert not (tmp_path / "metrics.jsonl").exists()


def test_another_fault_is_not_taken_for_want_of_memory(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(worst_first, "backward_with_room", fail)
    with pytest.raises(RuntimeError, match="something else"):
        outcome(tiny_folder, tmp_path, True)
