"""Tokens per second and peak memory of training, by adapter, storage and packing.

    .venv/bin/python benchmarks/training_speed.py
    .venv/bin/python benchmarks/training_speed.py --hidden 512 --layers 8 --steps 10

The base is a Llama with random weights, the lengths of the rows are drawn from a log-normal: speed
and memory depend on shapes, not on values. Every line is a process of its own, so that one line's
peak is not another's; the first two steps warm up and are not counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

VOCABULARY = 512
WARM_UP_STEPS = 2


def main() -> None:
    """Measure every combination and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--line", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.line:
        print(json.dumps(measure(options, *options.line)))
        return
    versions = ", ".join(f"{name} {version(name)}" for name in ("lorakit", "torch", "transformers"))
    print(f"{platform.platform()}, {platform.processor() or platform.machine()}; {versions}")
    print(f"hidden {options.hidden}, {options.layers} layers, r {options.rank}, ", end="")
    print(f"{options.batch} examples per step, median and spread of {options.steps} steps\n")
    print("| adapter | storage | layout | tokens/s | lowest - highest | peak MiB |")
    print("|---|---|---|---|---|---|")
    for line in itertools.product(("lora", "dora"), ("none", "nf4"), ("packed", "padded")):
        result = in_a_process(line)
        speeds = result["tokens_per_second"]
        print(
            f"| {' | '.join(line)} | {statistics.median(speeds):,.0f} "
            f"| {min(speeds):,.0f} - {max(speeds):,.0f} | {result['peak_bytes'] / 2**20:,.0f} |",
            flush=True,
        )


def in_a_process(line: tuple[str, ...]) -> dict:
    """Run this script again for one line of the table."""
    command = [sys.executable, __file__, *sys.argv[1:], "--line", *line]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace, kind: str, storage: str, layout: str) -> dict:
    """Train a few steps; tokens per second of each, and the peak."""
    import torch
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM

    from lorakit.adapters.attach import attach_adapter
    from lorakit.base.device import compute_device, compute_dtype
    from lorakit.base.load import load_weights
    from lorakit.recipe import LoraConfig
    from lorakit.train.loop import train
    from lorakit.train.settings import LoopSettings

    transformers.logging.disable_progress_bar()
    device = compute_device(None)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        pad_token_id=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
        config._attn_implementation = "lorakit"
        model, _ = load_weights(
            Path(folder),
            config,
            quantization=storage,
            double_quantization=True,
            block_size=64,
            dtype=compute_dtype(None, device),
            device=device,
        )
        attach_adapter(model, LoraConfig(r=options.rank, use_dora=kind == "dora"))
        outcome = train(
            model,
            random_examples((WARM_UP_STEPS + options.steps) * options.batch),
            LoopSettings(num_train_epochs=1, batch_size=options.batch, packing=layout == "packed"),
        )
    lines = outcome.metrics[WARM_UP_STEPS:]
    return {
        "tokens_per_second": [line["tokens_per_second"] for line in lines],
        "peak_bytes": outcome.metrics[-1]["peak_bytes"],
    }


def random_examples(count: int):
    """Examples with a median of 200 tokens, the second half of each trained."""
    from lorakit.data.examples import Example, examples_in_memory

    generator = np.random.default_rng(0)
    lengths = np.clip(np.exp(generator.normal(np.log(200), 0.6, count)), 16, 1024).astype(int)
    examples = []
    for length in lengths:
        ids = generator.integers(1, VOCABULARY, length).astype(np.int32)
        examples.append(Example(ids, (np.arange(length) >= length // 2).astype(np.float32)))
    return examples_in_memory(examples, "random lengths, seed 0")


if __name__ == "__main__":
    main()
