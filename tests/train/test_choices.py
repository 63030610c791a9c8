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
from lorakit.train.choices import activation_bytes_per_token, make_choices, replay_choices
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from tests.train import runs

CPU = torch.device("cpu")
EXAMPLES = runs.ragged_examples(11)
SETTINGS = LoopSettings(max_steps=1, batch_size=4)


def test_plenty_of_memory(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    choices = make_choices(model, EXAMPLES, SETTINGS, CPU, free_bytes=1 << 34)
    assert choices.micro_batch_tokens == 2048
    assert not choices.gradient_checkpointing and choices.packed
    assert choices.num_threads == torch.get_num_threads() and choices.dtype == "torch.float32"


def test_little_memory_turns_recompute_on_and_still_fits_the_longest_example(
    tiny_folder: Path,
) -> None:
    model = runs.adapted_model(tiny_folder)
    kept, recomputed = activation_bytes_per_token(model)
    assert recomputed < kept
    choices = make_choices(model, EXAMPLES, SETTINGS, CPU, free_bytes=int(900 * kept))
    assert choices.gradient_checkpointing and 512 <= choices.micro_batch_tokens <= 1024
    long = runs.ragged_examples(3, longest=3000)
    choices = make_choices(model, long, SETTINGS, CPU, free_bytes=1)
    assert choices.micro_batch_tokens == long.lengths.max()


def test_the_estimate_counts_inputs_and_outputs_of_linear_layers(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    # q 32 -> 32, k and v 32 -> 16, o 32 -> 32; gate and up 32 -> 64, down 64 -> 32; two layers.
    per_layer = 64 + 48 + 48 + 64 + 96 + 96 + 96
    kept, recomputed = activation_bytes_per_token(model)
    assert kept == 2 * per_layer * 4
    assert recomputed == 2 * 32 * 4 + per_layer * 4


def test_what_is_asked_for_is_what_is_done(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    settings = replace(SETTINGS, micro_batch_tokens=77, gradient_checkpointing=True, packing=False)
    choices = make_choices(model, EXAMPLES, settings, CPU, free_bytes=1 << 34)
    assert (choices.micro_batch_tokens, choices.gradient_checkpointing) == (77, True)
    assert not choices.packed


def test_a_run_records_its_choices(tiny_folder: Path, tmp_path: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    outcome = train(model, EXAMPLES, SETTINGS, run_dir=tmp_path)
    assert json.loads((tmp_path / "choices.json").read_text()) == outcome.choices.to_json()
    state = json.loads((tmp_path / "checkpoints" / "step-1" / "state.json").read_text())
    assert state["choices"] == outcome.choices.to_json()
    assert attached(model).config.r == 4


def test_other_hardware_is_refused_with_the_reason(tiny_folder: Path) -> None:
    model = runs.adapted_model(tiny_folder)
    recorded = make_choices(model, EXAMPLES, SETTINGS, CPU, free_bytes=1 << 34).to_json()
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
    chosen = make_choices(model, EXAMPLES, plain, CPU, free_bytes=1 << 34)
    assert chosen.kernels == "reference"
    assert make_choices(model, EXAMPLES, SETTINGS, CPU, free_bytes=1 << 34).kernels == "cpu"
    with pytest.raises(CheckpointError, match="kernels: the run was started with 'reference'"):
        replay_choices(chosen.to_json(), model, SETTINGS, CPU)
    before = {name: value for name, value in chosen.to_json().items() if name != "kernels"}
    assert replay_choices(before, model, plain, CPU) == chosen


def test_choices_are_told_in_words(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = runs.adapted_model(tiny_folder)
    with caplog.at_level(logging.INFO):
        choices = make_choices(model, EXAMPLES, SETTINGS, CPU, free_bytes=1 << 34)
    threads = torch.get_num_threads()
    line = f"tokens, packed; no gradient checkpointing; {threads} CPU threads; float32; cpu kernels"
    assert choices.describe() == f"micro-batches of up to 2048 {line}"
    assert choices.describe() in caplog.text and "Choices(" not in caplog.text
