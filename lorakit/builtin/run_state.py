"""What a pretraining run is told, where it stands, and how both are kept on disk."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

from lorakit.builtin.weights import MasterWeights
from lorakit.errors import CheckpointError
from lorakit.files import write_atomically


@dataclass(frozen=True)
class Settings:
    """What decides the result. On resume only the numbers of blocks may change.

    Attributes:
        matrices: "muon" or "adamw", what trains the weight matrices of the layers.
        dtype: of the forward and backward pass; the weights that learn are always float32. bfloat16
            is slow, and Muon with it, on a CPU without instructions for it.
    """

    seed: int = 0
    main_blocks: int = 6
    anneal_blocks: int = 5
    skills_blocks: int = 2
    copying_blocks: int = 12
    ordering_blocks: int = 5
    block_tokens: int = 500_000
    batch_tokens: int = 4096
    learning_rate: float = 4e-3
    warmup_tokens: int = 100_000
    matrices: str = "muon"
    dtype: str = "bfloat16"
    vocab_size: int = 4096


@dataclass
class Progress:
    """Where a run is: the next batch, and what has been counted so far.

    Attributes:
        tokens: trained in all, `adopted_tokens` of them by the model that the run started from.
    """

    phase: str = "main"
    block: int = 0
    batch: int = 0
    step: int = 0
    tokens: int = 0
    adopted_tokens: int = 0
    phase_tokens: int = 0
    seconds: float = 0.0

    def count(self, num_tokens: int, *, seconds: float) -> None:
        """One more batch of `num_tokens` is trained, `seconds` after the start."""
        self.step += 1
        self.batch += 1
        self.tokens += num_tokens
        self.phase_tokens += num_tokens
        self.seconds = seconds


def write_checkpoint(
    output: Path, masters: MasterWeights, settings: Settings, progress: Progress
) -> None:
    """Everything needed to go on, in one file that is replaced at once."""
    metadata = {
        "settings": json.dumps(asdict(settings)),
        "progress": json.dumps(asdict(progress)),
    }
    write_atomically(output / "checkpoint.safetensors", save(masters.state(), metadata))


def read_checkpoint(output: Path, masters: MasterWeights, settings: Settings) -> Progress:
    """Restore the master weights; returns where the run was.

    Raises:
        CheckpointError: no checkpoint, or one of other settings.
    """
    path = output / "checkpoint.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"There is no {path} to resume from; possible: a folder that a run has saved to. "
            "Start without --resume."
        )
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    free = ("main_blocks", "anneal_blocks", "skills_blocks", "copying_blocks", "ordering_blocks")
    saved, now = json.loads(metadata["settings"]), asdict(settings)
    changed = [key for key in now if key not in free and saved.get(key) != now[key]]
    if changed:
        raise CheckpointError(
            f"{path} was made with other {', '.join(changed)}; possible on resume: other "
            f"{' and '.join(free)}. Give the old values or start anew."
        )
    masters.restore(tensors)
    return Progress(**json.loads(metadata["progress"]))


class Log:
    """JSON lines, cut back to the checkpoint's step when a run goes on."""

    def __init__(self, path: Path, *, keep_steps: int) -> None:
        lines = path.read_text().splitlines() if path.is_file() and keep_steps else []
        kept = [line for line in lines if json.loads(line)["step"] <= keep_steps]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        self._path = path

    def write(self, record: dict[str, object]) -> None:
        """Append one record; progress also goes to stderr now and then."""
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if "held_out" in record or int(str(record["step"])) % 20 == 0:
            print(json.dumps(record), file=sys.stderr, flush=True)
