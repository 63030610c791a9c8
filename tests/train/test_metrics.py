"""metrics.jsonl, the peak, and the loggers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from lorakit.base.device_memory import free_bytes
from lorakit.errors import CheckpointError
from lorakit.train.loggers import open_loggers
from lorakit.train.loop import train
from lorakit.train.memory import RSS_AFTER_IMPORTS, peak_bytes
from lorakit.train.metrics import MetricsFile, read_metrics
from lorakit.train.settings import LoopSettings
from tests.train import runs

SETTINGS = LoopSettings(max_steps=3, batch_size=4, micro_batch_tokens=48)


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path, last_step=0)
    metrics.append({"step": 1, "loss": 0.1})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.1}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        metrics.append({"step": 2, "loss": float("nan")})
    metrics.close()


@pytest.mark.parametrize("cut_off", ["", '{"step": 4, "lo', '{"step": 4}'])
def test_a_resumed_file_is_cut_back_to_the_checkpoint_s_step(tmp_path: Path, cut_off: str) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in (1, 2, 3)]
    path.write_text("".join(lines) + cut_off)
    metrics = MetricsFile(tmp_path, last_step=2)
    assert [line["step"] for line in metrics.lines] == [1, 2]
    metrics.append({"step": 3, "loss": 1 / 3})
    metrics.close()
    assert path.read_text() == "".join(lines)


DAMAGE = {
    "cut": b'{"step": 3, "lo\n',
    "zeros": b"\0\0\0\0\n",
    "no step": b'{"loss": 1}\n',
    "no object": b"3\n",
    "no text": b'{"step": "\xff"}\n',
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_after_the_checkpoint_is_cut_off_and_before_it_is_named(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}).encode() + b"\n" for step in (1, 2, 3, 4)]
    content = lines[0] + lines[1] + DAMAGE[damage] + lines[3]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"line 3, the one after step 2, .* step 3 counts"):
        MetricsFile(tmp_path, last_step=3)
    assert path.read_bytes() == content
    MetricsFile(tmp_path, last_step=2).close()
    assert path.read_bytes() == lines[0] + lines[1]


def test_a_new_run_starts_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    MetricsFile(tmp_path, last_step=0).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_the_peak_follows_an_allocation() -> None:
    device = torch.device("cpu")
    before = peak_bytes(device)
    # An earlier test of this process may have peaked far above what is resident now.
    slack = before + RSS_AFTER_IMPORTS - psutil.Process().memory_info().rss
    mebibytes = 100 + (max(0, slack) >> 20)
    assert torch.ones(mebibytes << 18).sum() > 0
    after = peak_bytes(device)
    assert before + (50 << 20) < after < before + (200 << 20)
    assert free_bytes(device) > 0


def test_tensorboard_gets_every_line(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = runs.adapted_model(tiny_folder)
    settings = replace(SETTINGS, report_to=("tensorboard",))
    outcome = train(model, runs.ragged_examples(), settings, run_dir=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    read = {event.step: event.value for event in events.Scalars("loss")}
    assert read == {line["step"]: pytest.approx(line["loss"]) for line in outcome.metrics}


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("tensorboard", "torch.utils.tensorboard"),
        ("trackio", "trackio"),
        ("wandb", "wandb"),
    ],
)
def test_a_missing_package_says_how_to_install_it(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    with pytest.raises(ImportError, match=rf"{name}; pip install 'lorakit\[logging\]'"):
        open_loggers([name], tmp_path, first_step=0, config={})
