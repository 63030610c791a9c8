"""What inits make of a quantized base before any training: error per layer, loss, reload error.

python benchmarks/inits.py [--shared ../shared/data] [--rank 8] [--examples 200]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from page import command, machine, write_section
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lorakit
from lorakit.adapters.low_rank import spread
from lorakit.data.examples import ExampleSet
from lorakit.data.prepare import prepare_meanings
from lorakit.data.reading import DataRules, read_meanings
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
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--examples", type=int, default=400)
    arguments = parser.parse_args()
    parts = []
    for base in bases(arguments.shared):
        parts.append(measured(base, arguments.rank, arguments.examples))
        print(parts[-1], flush=True)
    intro = (
        f"Written by `{command()}`. {machine()} NF4 with double quantization, block size 64, "
        f"float32, rank {arguments.rank} on all linear layers.\n\n"
        "Ratio: ||W - (Q + s B A)|| / ||W - pack(W)|| of each layer, minimum, median and maximum; "
        "below 1 where the base with the start is closer to the original weights than the plain "
        "quantized base. Loss: nats per token of rows that nothing here is trained on, with "
        "alpha = r; a loss below the dense model's is chance, not merit: quantization moves it "
        "both ways."
    )
    write_section(HEADING, "\n\n".join([intro, *parts]))


@dataclass(frozen=True)
class Base:
    """A pretrained model and rows to measure its loss on, {title: source}."""

    name: str
    model: str
    rows: dict[str, str]


def bases(shared: Path) -> Iterator[Base]:
    """Those that are at hand."""
    sets = {"general": "builtin:general", "retention": "builtin:retention"}
    yield Base("the built-in base", "builtin", sets)
    for name in ("stories260K", "bitllama-1M"):
        if (shared / "models" / name).is_dir():
            rows = {"MedQuAD": str(shared / "medquad" / "small_test_300.jsonl")}
            yield Base(name, str(shared / "models" / name), rows)


def measured(base: Base, r: int, num_examples: int) -> str:
    """The Markdown of one base."""
    dense, tokenizer = lorakit.load_base(base.model, dtype=torch.float32, device="cpu")
    sets = {title: held_out(rows, tokenizer) for title, rows in base.rows.items()}

    def losses(model: PreTrainedModel) -> list[float]:
        return [loss(model, examples, num_examples) for examples in sets.values()]

    found = {"dense, no adapter": losses(dense)}
    found["nf4, plain QLoRA"] = losses(quantized(base.model))
    ratios: dict[str, list[str]] = {}
    for title, init, options in INITS:
        ratios[title] = []
        for factor in ALPHAS:
            config = LoraConfig(r=r, lora_alpha=factor * r, init_lora_weights=init, **options)
            model = quantized(base.model)
            errors = lorakit.attach_adapter(model, config).start_errors.values()
            each = [error.ratio for error in errors if error.ratio is not None]
            assert init != "loftq" or all(ratio < 1 for ratio in each), title
            exact = len(errors) - len(each)
            told = f"; {exact} layers that were exact are not any more" if exact else ""
            ratios[title].append(f"{spread(each)} of {len(each)} layers{told}")
            if factor == 1:
                found[f"nf4, {title}"] = losses(model)
    lines = [*row("ratio", (f"alpha = {factor:g}r" for factor in ALPHAS)), rule(len(ALPHAS))]
    lines += [line for title, each in ratios.items() for line in row(title, each)]
    counts = [min(num_examples, len(examples)) for examples in sets.values()]
    named = (f"{title} ({n} examples)" for title, n in zip(sets, counts, strict=True))
    lines += ["", *row("loss before training", named), rule(len(sets))]
    for title, values in found.items():
        lines += row(title, (f"{value:.4f}" for value in values))
    lines += [
        "",
        f"PiSSA, saved and loaded on a fresh base: logit error {reload_error(base, r):g}.",
    ]
    return f"### {base.name}\n\n" + "\n".join(lines)


def row(title: str, cells: Iterable[str]) -> list[str]:
    """One line of a table."""
    return [f"| {title} | {' | '.join(cells)} |"]


def rule(num_cells: int) -> str:
    """The line below a table's head."""
    return "|---|" + "---|" * num_cells


def quantized(base: str) -> PreTrainedModel:
    """A fresh NF4 base."""
    return lorakit.load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")[0]


def held_out(rows: str, tokenizer: PreTrainedTokenizerBase) -> ExampleSet:
    """Examples that no adapter here is trained on."""
    rules = DataRules(max_length=MAX_LENGTH, max_dropped=1.0)
    return prepare_meanings(read_meanings(rows, rules), tokenizer, rules).examples


def loss(model: PreTrainedModel, examples: ExampleSet, count: int) -> float:
    """Mean loss per trained token of the first `count` examples."""
    return example_losses(
        model,
        examples,
        token_budget=TOKEN_BUDGET,
        packed=True,
        max_examples=min(count, len(examples)),
    ).mean


@torch.no_grad()
def reload_error(base: Base, r: int) -> float:
    """Largest difference of a logit between a trained PiSSA and the same saved and loaded."""
    model = quantized(base.model)
    adapter = lorakit.attach_adapter(model, LoraConfig(r=r, init_lora_weights="pissa"))
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter.parameters().values():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=1e-2)
    ids = torch.arange(5, 37)[None]
    again = quantized(base.model)
    with tempfile.TemporaryDirectory() as folder:
        lorakit.save_adapter(model, folder)
        lorakit.load_adapter(again, folder)
    return (model(ids).logits - again(ids).logits).abs().max().item()


if __name__ == "__main__":
    main()
