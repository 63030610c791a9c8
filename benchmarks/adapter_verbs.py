"""Prints the outputs that docs/adapters/verbs.md and docs/adapters/several.md show.

    python benchmarks/adapter_verbs.py [--steps 30]

Three adapters are trained on the built-in base, and `lorakit adapter` is run on them. Numbers
differ in their last digits between machines.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

import lorakit
from lorakit.cli import main as run
from lorakit.recipe import LoraConfig, SFTConfig

ADAPTERS: dict[str, dict[str, Any]] = {
    "a": {"r": 8},
    "b": {"r": 16, "use_rslora": True},
    "dora": {"r": 8, "use_dora": True},
}
COMMANDS = (
    "info runs/a",
    "combine runs/a runs/b:0.5 --output both",
    "combine runs/a runs/b --method interpolate --max-error 0.05 --output mean",
    "combine runs/a runs/dora --output x",
    "convert runs/b --to lora --output plain",
    "convert both --to lora --rank 8 --output small",
    "convert runs/dora --to lora --rank 32 --base builtin --output dora32",
    "convert runs/dora --to lora --max-error 0.01 --base builtin --output dora99",
)
MAX_LENGTH, BATCH_SIZE, LEARNING_RATE = 512, 8, 4e-3


def main() -> None:
    """Train, run the commands, and show the adapters beside each other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, config in ADAPTERS.items():
            train(Path("runs") / name, LoraConfig(**config), steps)
        for command in COMMANDS:
            print(f"\n$ lorakit adapter {command}", flush=True)
            run(["adapter", *command.split()])
        beside_each_other()


def train(folder: Path, config: LoraConfig, steps: int) -> None:
    """Train an adapter and save it."""
    model, tokenizer = lorakit.load_base("builtin", dtype=torch.float32)
    lorakit.attach_adapter(model, config)
    options = SFTConfig(
        max_steps=steps,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        max_length=MAX_LENGTH,
        max_dropped=1.0,
        seed=42,
    )
    lorakit.train_sft(model, tokenizer, "builtin:train", options)
    lorakit.save_adapter(model, folder)


def beside_each_other() -> None:
    """The example of several.md."""
    model, tokenizer = lorakit.load_base("builtin", quantization="nf4")
    lorakit.load_adapter(model, "runs/dora", name="clinic")
    lorakit.load_adapter(model, "runs/a", name="letters")
    print(lorakit.adapter_names(model))
    lorakit.use_adapter(model, "clinic")
    print(lorakit.adapter_names(model))
    ids = tokenizer(["What is asthma?"] * 3, return_tensors="pt").input_ids
    with torch.no_grad(), lorakit.adapters_by_row(model, ["clinic", "letters", None]):
        logits = model(input_ids=ids).logits
    print([round(value, 3) for value in logits[:, -1, 100].tolist()])
    for name in ("clinic", "letters"):
        lorakit.use_adapter(model, name)
        with torch.no_grad():
            print(name, "alone:", round(model(input_ids=ids).logits[0, -1, 100].item(), 3))
    with torch.no_grad(), lorakit.adapter_disabled(model):
        print("disabled:", round(model(input_ids=ids).logits[0, -1, 100].item(), 3))
    lorakit.use_adapter(model, "clinic")
    lorakit.drop_adapter(model, "letters")
    print(lorakit.adapter_names(model))


if __name__ == "__main__":
    main()
