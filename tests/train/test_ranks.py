"""Two processes train what one does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

from tests import tolerances

ROOT = Path(__file__).parents[2]

CODE = """
import os, sys
from pathlib import Path
import torch.distributed as dist
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from tests.train import runs

rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if world_size > 1:
    dist.init_process_group("gloo")
model = runs.adapted_model(Path(sys.argv[1]), lora_dropout=0.1)
settings = LoopSettings(
    num_train_epochs=2, batch_size=4, learning_rate=1e-2, micro_batch_tokens=48, seed=5
)
# Nine examples: the last step of an epoch leaves rank 1 without any.
outcome = train(
    model, runs.ragged_examples(9), settings, validation=runs.ragged_examples(3, seed=2),
    run_dir=Path(sys.argv[2]), resume=sys.argv[3] == "resume", rank=rank, world_size=world_size,
)
assert outcome.steps == 6
if world_size > 1:
    dist.destroy_process_group()
"""


def _run(folder: Path, run_dir: Path, world_size: int, *, resume: bool = False) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(folder), str(run_dir), "resume" if resume else ""],
            cwd=ROOT,
            env=os.environ | shared | {"RANK": str(rank), "WORLD_SIZE": str(world_size)},
        )
        for rank in range(world_size)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0] * world_size


def _parameters(run_dir: Path) -> dict:
    path = run_dir / "checkpoints" / "step-6" / "parameters.safetensors"
    return safetensors.torch.load_file(path)


@pytest.mark.slow
def test_two_processes_train_what_one_does(tiny_folder: Path, tmp_path: Path) -> None:
    _run(tiny_folder, tmp_path / "one", 1)
    _run(tiny_folder, tmp_path / "two", 2)
    one, two = _parameters(tmp_path / "one"), _parameters(tmp_path / "two")
    for name, value in one.items():
        assert tolerances.relative_error(two[name], value) < tolerances.AFTER_ADAM_FLOAT32, name
    _run(tiny_folder, tmp_path / "two", 2, resume=True)
    assert all((_parameters(tmp_path / "two")[n] == two[n]).all() for n in two)
