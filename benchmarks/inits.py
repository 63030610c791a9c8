"""What inits make of a quantized base before any training: error per layer, loss, reload error.

python benchmarks/inits.py [--shared ../shared/data] [--rank 8] [--examples 200]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from page import machine, write_section
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lorakit
from lorakit.adapters.low_rank import spread
from lorakit.data.examples import ExampleSet
from lorakit.data.meanings import DataRules, read_meanings
from lorakit.data.prepare import prepare_meanings
from lorakit.recipe import LoraConfig
from lorakit.train.losses import example_losses

ROOT = Path(__file__).parents[1]
HEADING = "Inits on a quantized base, before any training"
# (name in the table, init_lora_weights, further options)
INITS = [
    ("loftq, 1 iteration", "loftq", {}),
    ("loftq, 5 iterations", "loftq", {"loftq_config": {"loftq_iter": 5}}),
    ("pissa", "pissa", {}),
    ("pissa_niter_4", "pissa_niter_4", {}),
    ("olora", "olora", {}),
]
ALPHAS = (0.5, 1, 2, 4)  # times the rank
MAX_LENGTH, TOKEN_BUDGET = 512, 4096


def main() -> None:
    """Measure every base that is there, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--examples", type=int, default=200)
    arguments = parser.parse_args()
    parts = []
    for name, base, rows in bases(arguments.shared):
        part = measured(name, base, rows, arguments.rank, arguments.examples)
        print(part, flush=True)
        parts.append(part)
    intro = (
        f"Written by `python benchmarks/inits.py --rank {arguments.rank} --examples "
        f"{arguments.examples}`. {machine()} NF4 with double quantization, block size 64, float32, "
        f"rank {arguments.rank} on all linear layers. Ratio: ||W - (Q + s B A)|| / ||W - pack(W)|| "
        "of each layer, below 1 where the base with the start is closer to the original weights "
        "than the plain quantized base. Loss: mean per token over held-out examples."
    )
    write_section(HEADING, "\n\n".join([intro, *parts]))


def bases(shared: Path) -> Iterator[tuple[str, str, str]]:
    """(name, model, held-out rows) of the pretrained models that are at hand."""
    yield "the built-in base", "builtin", "builtin:retention"
    for name in ("stories260K", "bitllama-1M"):
        if (shared / "models" / name).is_dir():
            yield (
                name,
                str(shared / "models" / name),
                str(shared / "medquad" / "small_test_300.jsonl"),
            )


def measured(name: str, base: str, rows: str, r: int, num_examples: int) -> str:
    """The Markdown of one base."""
    dense, tokenizer = lorakit.load_base(base, dtype=torch.float32, device="cpu")
    examples = held_out(rows, tokenizer)
    count = min(num_examples, len(examples))
    losses = {"dense, no adapter": loss(dense, examples, count)}
    losses["nf4, plain QLoRA"] = loss(quantized(base), examples, count)
    ratios: dict[str, list[str]] = {}
    for title, init, options in INITS:
        ratios[title] = []
        for factor in ALPHAS:
            config = LoraConfig(r=r, lora_alpha=factor * r, init_lora_weights=init, **options)
            model = quantized(base)
            adapter = lorakit.attach_adapter(model, config)
            found = [error.ratio for error in adapter.start_errors.values()]
            ratios[title].append(spread(found) if found else "nothing to correct")
            if init == "loftq":
                assert all(error.ratio < 1 for error in adapter.start_errors.values()), title
            if factor == 1:
                losses[f"nf4, {title}, alpha = r"] = loss(model, examples, count)
    alphas = " | ".join(f"alpha = {factor:g}r" for factor in ALPHAS)
    table = [f"| init | {alphas} |", "|---|" + "---|" * len(ALPHAS)]
    table += [f"| {title} | {' | '.join(found)} |" for title, found in ratios.items()]
    table += ["", f"| loss of {count} examples before training | nats per token | perplexity |"]
    table += ["|---|---|---|"]
    table += [
        f"| {title} | {value:.4f} | {math.exp(value):.3f} |" for title, value in losses.items()
    ]
    table += [
        "",
        f"PiSSA, saved and loaded on a fresh base: logit error {reload_error(base, r):g}.",
    ]
    return f"### {name}\n\n" + "\n".join(table)


def quantized(base: str) -> PreTrainedModel:
    """A fresh NF4 base."""
    return lorakit.load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")[0]


def held_out(rows: str, tokenizer: PreTrainedTokenizerBase) -> ExampleSet:
    """Examples that no adapter here is trained on."""
    rules = DataRules(max_length=MAX_LENGTH, max_dropped=1.0)
    return prepare_meanings(read_meanings(rows, rules), tokenizer, rules).examples


def loss(model: PreTrainedModel, examples: ExampleSet, count: int) -> float:
    """Mean loss per trained token of the first `count` examples."""
    losses = example_losses(
        model, examples, token_budget=TOKEN_BUDGET, packed=True, max_examples=count
    )
    return losses.mean


@torch.no_grad()
def reload_error(base: str, r: int) -> float:
    """Largest difference of a logit between a trained PiSSA and the same saved and loaded."""
    model = quantized(base)
    adapter = lorakit.attach_adapter(model, LoraConfig(r=r, init_lora_weights="pissa"))
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter.parameters().values():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=1e-2)
    ids = torch.arange(5, 37)[None]
    again = quantized(base)
    with tempfile.TemporaryDirectory() as folder:
        lorakit.save_adapter(model, folder)
        lorakit.load_adapter(again, folder)
    return (model(ids).logits - again(ids).logits).abs().max().item()


if __name__ == "__main__":
    main()
