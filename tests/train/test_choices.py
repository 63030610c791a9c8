"""What the engine decides by itself: sensible, recorded, and the same on every rank."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorakit.adapters.attach import attached
from lorakit.errors import CheckpointError
from lorakit.train.choices import bytes_per_token, kept_by_layers, make_choices, replay_choices
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from tests.train import runs

CPU = torch.device("cpu")
EXAMPLES = runs.ragged_examples(11)
LONGEST = int(EXAMPLES.lengths.max())
SETTINGS = LoopSettings(max_steps=1, batch_size=4)


def test_plenty_of_memory(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    choices = make_choices(model, LONGEST, SETTINGS, CPU, free_bytes=1 << 34)
    assert choices.micro_batch_tokens == 2048 and choices.packed
    assert choices.recompute == "auto" and choices.activation_bytes == 1 << 33
    assert choices.num_threads == torch.get_num_threads() and choices.dtype == "torch.float32"


def test_little_memory_makes_small_micro_batches_that_fit_the_longest_example(
    tiny_folder: Path,
) -> None:
    model = runs.adapted_model(tiny_folder)
    kept = bytes_per_token(kept_by_layers(model), "none")
    choices = make_choices(model, LONGEST, SETTINGS, CPU, free_bytes=int(2 * 1030 * kept))
    assert choices.micro_batch_tokens == 1024
    long = runs.ragged_examples(3, longest=3000)
    choices = make_choices(model, int(long.lengths.max()), SETTINGS, CPU, free_bytes=1)
    assert choices.micro_batch_tokens == long.lengths.max()
    assert choices.activation_bytes == 0


def test_more_recompute_keeps_less(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    # Llama's two layers: hidden 32, inner 64, four heads of 8, two key heads; r 4, seven layers.
    # What the layers read, twice; q, k, v, the attention's output; and the MLP's inner activations.
    per_layer = 2 * 32 + (32 + 16 + 16) + 32 + 2 * 64 + 7 * 4
    assert bytes_per_token(kept_by_layers(model), "none") == 2 * per_layer * 4
    assert bytes_per_token(kept_by_layers(model), "selective") == 2 * (per_layer - 2 * (64 + 4)) * 4
    assert bytes_per_token(kept_by_layers(model), "full") == (2 * 32 + per_layer) * 4


def test_what_is_asked_for_is_what_is_done(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    for asked, level in ((True, "full"), (False, "none"), ("selective", "selective")):
        settings = replace(
            SETTINGS, micro_batch_tokens=77, gradient_checkpointing=asked, packing=False
        )
        choices = make_choices(model, LONGEST, settings, CPU, free_bytes=1 << 34)
        assert (choices.micro_batch_tokens, choices.recompute) == (77, level)
        assert choices.activation_bytes is None and not choices.packed


def test_choices_of_earlier_versions_are_understood(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    settings = replace(SETTINGS, gradient_checkpointing=True)
    chosen = make_choices(model, LONGEST, settings, CPU, free_bytes=1 << 34)
    recorded = chosen.to_json() | {"gradient_checkpointing": True}
    del recorded["recompute"], recorded["activation_bytes"]
    assert replay_choices(recorded, model, settings, CPU) == chosen
    with pytest.raises(CheckpointError, match="was started with 'full', now it is 'none'"):
        replay_choices(recorded, model, replace(settings, gradient_checkpointing=False), CPU)


def test_a_run_records_its_choices(tiny_folder: Path, tmp_path: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    outcome = train(model, EXAMPLES, SETTINGS, run_dir=tmp_path)
    assert json.loads((tmp_path / "choices.json").read_text()) == outcome.choices.to_json()
    state = json.loads((tmp_path / "checkpoints" / "step-1" / "state.json").read_text())
    assert state["choices"] == outcome.choices.to_json()
    assert attached(model).config.r == 4


def test_other_hardware_is_refused_with_the_reason(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    recorded = make_choices(model, LONGEST, SETTINGS, CPU, free_bytes=1 << 34).to_json()
    assert replay_choices(recorded, model, SETTINGS, CPU).to_json() == recorded
    elsewhere = recorded | {"device": "NVIDIA H200", "dtype": "torch.bfloat16"}
    message = r"device: the run was started with 'NVIDIA H200', now it is 'cpu .*; dtype: "
    with pytest.raises(CheckpointError, match=message):
        replay_choices(elsewhere, model, SETTINGS, CPU)


def test_the_reference_kernels_are_a_choice_that_a_resumed_run_must_share(
    tiny_folder: Path,
) -> None:
    model = runs.adapted_model(tiny_folder)
    plain = replace(SETTINGS, kernels="reference")
    chosen = make_choices(model, LONGEST, plain, CPU, free_bytes=1 << 34)
    assert chosen.kernels == "reference"
    assert make_choices(model, LONGEST, SETTINGS, CPU, free_bytes=1 << 34).kernels == "cpu"
    with pytest.raises(CheckpointError, match="kernels: the run was started with 'reference'"):
        replay_choices(chosen.to_json(), model, SETTINGS, CPU)
    before = {name: value for name, value in chosen.to_json().items() if name != "kernels"}
    assert replay_choices(before, model, plain, CPU) == chosen


def test_choices_are_told_in_words(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = runs.adapted_model(tiny_folder)
    with caplog.at_level(logging.INFO):
        choices = make_choices(model, LONGEST, SETTINGS, CPU, free_bytes=1 << 34)
    threads = torch.get_num_threads()
    cpu = "1 CPU thread" if threads == 1 else f"{threads} CPU threads"
    line = f"gradient checkpointing beyond 8.0 GiB; {cpu}; float32; cpu kernels"
    assert choices.describe() == f"micro-batches of up to 2048 tokens, packed; {line}"
    assert choices.describe() in caplog.text and "Choices(" not in caplog.text
