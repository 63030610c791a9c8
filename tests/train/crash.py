"""A small run to be killed: `python -m tests.train.crash MODEL RUN [--resume]` trains it.

`python -m tests.train.crash --serve` imports everything once and forks a fresh process for every
line of JSON options on stdin, so that a test can kill many runs without waiting for imports.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lorakit.adapters.store import save_adapter
from lorakit.errors import LorakitError
from lorakit.train.loop import train
from lorakit.train.settings import LoopSettings
from tests.train import runs

# Three epochs of three ragged steps, a checkpoint after each.
NUM_EXAMPLES, NUM_STEPS = 11, 9
READS_OF_STEPS = [4, 4, 3] * 3
SETTINGS = LoopSettings(
    num_train_epochs=3,
    batch_size=4,
    learning_rate=1e-2,
    micro_batch_tokens=48,
    save_steps=1,
    save_total_limit=2,
    seed=5,
    worst_batch_first=False,  # has tests of its own; here steps and reads are counted
)
ADAPTER = {"lora_dropout": 0.1, "target_modules": ["q_proj", "down_proj"]}


@dataclass(frozen=True)
class Options:
    """One run.

    Attributes:
        model: folder of the base model.
        run_dir: the run folder.
        resume: go on from its newest checkpoint.
        stop_at: numbers of reads of the training examples before which the process stops itself
            (SIGSTOP) until somebody lets it go on.
        sleep_at: number of reads before which it sleeps for a minute; 0: never.
    """

    model: str
    run_dir: str
    resume: bool = False
    stop_at: tuple[int, ...] = ()
    sleep_at: int = 0


def run(options: Options) -> int:
    """Train, save the adapter, and return the exit code the command line would."""

    def on_read(reads: int) -> None:
        if reads in options.stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        if reads == options.sleep_at:
            time.sleep(60)

    model = runs.adapted_model(Path(options.model), **ADAPTER)
    examples = runs.Watched(runs.ragged_examples(NUM_EXAMPLES), on_read)
    run_dir = Path(options.run_dir)
    try:
        train(model, examples, SETTINGS, run_dir=run_dir, resume=options.resume)
    except LorakitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    save_adapter(model, run_dir / "adapter")
    return 0


def serve() -> None:
    """Fork a run per line of options; answer with its pid, and with its exit code when it ended."""
    load_kernels()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(run(Options(**json.loads(line))))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def load_kernels() -> None:
    """Have every kernel ready before the first fork. A run that compiles one itself, because
    numba's cache does not have it yet, writes files in the midst of its first step, and whoever
    watches or counts the system calls of a save finds them among its own.
    """
    from lorakit.kernels.cpu import compiled

    for kernel in vars(compiled).values():
        if isinstance(kernel, compiled.Kernel):
            kernel.address()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    parser.add_argument("run_dir", nargs="?")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
    else:
        sys.exit(run(Options(arguments.model, arguments.run_dir, arguments.resume)))


def to_line(options: Options) -> str:
    """What `serve` reads."""
    return json.dumps(asdict(options)) + "\n"


if __name__ == "__main__":
    main()
