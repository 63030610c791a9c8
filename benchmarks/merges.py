"""The merges of adapters trained on a 4-bit base: what each keeps of the change, and the loss.

python benchmarks/merges.py [--steps 60] [--examples 100]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from page import command, machine, write_section
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lorakit
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.storages import storage
from lorakit.base.write_quantized import PackSettings, quantize_folder
from lorakit.data.examples import ExampleSet
from lorakit.data.prepare import prepare_meanings
from lorakit.data.reading import DataRules, read_meanings
from lorakit.recipe import LoraConfig, SFTConfig
from lorakit.ship.merge_folder import MergeReport, merge_folder
from lorakit.ship.weight_change import LayerChange, WeightChange, layer_change
from lorakit.train.losses import example_losses

HEADING = "Merges of adapters trained on a 4-bit base"
BASE, ROWS, HELD_OUT = "builtin", "builtin:train", "builtin:in_domain"
# (name in the table, adapter, learning rate): the usual rate moves this small base a little, the
# demo's a lot.
RUNS: list[tuple[str, dict[str, Any], float]] = [
    ("LoRA, 2e-4", {}, 2e-4),
    ("LoRA, 4e-3", {}, 4e-3),
    ("DoRA, 4e-3", {"use_dora": True}, 4e-3),
    ("LoRA, pissa, 2e-4", {"init_lora_weights": "pissa"}, 2e-4),
]
FAITHFUL = "faithful"
MERGES: dict[str, dict[str, Any]] = {
    FAITHFUL: {},
    "into the original": {"into": "original"},
    "`--quantize nf4`": {"quantize": PackSettings("nf4")},
    "`--quantize int8`": {"quantize": PackSettings("int8")},
}
MAX_LENGTH, TOKEN_BUDGET, BATCH_SIZE = 512, 4096, 8
COLUMNS = "| model | loss | weights differ | change | retained | noise | logits differ |"


def main() -> None:
    """Train, merge and measure, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--examples", type=int, default=100)
    arguments = parser.parse_args()
    parts = []
    for name, config, learning_rate in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            rows = measured(Path(folder), config, learning_rate, arguments)
        parts.append(
            f"### {name}\n\n" + "\n".join([COLUMNS, "|---|---|---|---|---|---|---|", *rows])
        )
        print(parts[-1], flush=True)
    intro = (
        f"Written by `{command()}`. {machine()} The built-in base in NF4 (double quantization, "
        f"block size 64), float32, rank 16 on all linear layers, {arguments.steps} steps of "
        f"{BATCH_SIZE} examples at the learning rate in the heading. Loss: mean per token of "
        f"{arguments.examples} held-out examples. Weights and logits: relative difference from "
        "base + adapter. Change: what training changed, relative to the weights; retained: how "
        "much of that is in what was written, with its standard error ([merging](merging.md) has "
        "the formulas). Noise: rounding of the merged weights. The last line is what a merge into "
        "the live codes gives (PEFT's way); lorakit refuses it."
    )
    write_section(HEADING, "\n\n".join([intro, *parts]))


def measured(
    folder: Path, config: Mapping[str, Any], learning_rate: float, arguments: argparse.Namespace
) -> list[str]:
    """The lines of one adapter."""
    model, tokenizer = nf4_base()
    examples = held_out(tokenizer)
    count = min(arguments.examples, len(examples))
    rows = [line("base in NF4", loss(model, examples, count))]
    adapter = lorakit.attach_adapter(model, LoraConfig(r=16, lora_alpha=32, **config))
    with lorakit.adapter_disabled(model):
        started = {
            name: module.weight.detach()
            for name, module in adapter.modules.items()
            if isinstance(module, AdaptedLinear)
        }
    options = SFTConfig(
        max_steps=arguments.steps,
        batch_size=BATCH_SIZE,
        learning_rate=learning_rate,
        max_length=MAX_LENGTH,
        max_dropped=1.0,
        seed=42,
    )
    lorakit.train_sft(model, tokenizer, ROWS, options)
    lorakit.save_adapter(model, folder / "adapter")
    rows.append(line("base + adapter", loss(model, examples, count)))
    for name, merge in MERGES.items():
        output = folder / name
        report = merge_folder(
            BASE, folder / "adapter", output, quantization="nf4", base_dtype=torch.float32, **merge
        )
        is_packed = report.quantize is not None
        rows.append(line(name, folder_loss(output, is_packed, examples, count), report))
    faithful = folder / FAITHFUL
    # What everybody else does, to show what it costs.
    quantize_folder(faithful, folder / "codes", PackSettings("nf4"), allow_lost_adapter=True)
    again = WeightChange(packed_again(started, faithful))
    value = folder_loss(folder / "codes", True, examples, count)
    rows.append(line("NF4 codes in place", value, None, again))
    return rows


def line(
    name: str,
    value: float,
    report: MergeReport | None = None,
    weights: WeightChange | None = None,
) -> str:
    """One line of the table."""
    weights = weights if report is None else report.weights
    cells = [name, f"{value:.4f}", "", "", "", "", ""]
    if weights is not None:
        cells[2:6] = weight_cells(weights.total)
    if report is not None:
        cells[6] = f"{report.verification.error:.2g}"
    return f"| {' | '.join(cells)} |"


def weight_cells(total: LayerChange) -> list[str]:
    """Difference, change, retained and noise; after a first step of warm-up nothing has changed."""
    changed = total.retained is not None
    return [
        f"{total.relative_difference:.2%}",
        f"{total.relative_change:.2%}",
        f"{total.retained:.1%} ± {total.standard_error:.1%}" if changed else "",
        f"{total.relative_noise:.2%}",
    ]


@torch.no_grad()
def packed_again(before: Mapping[str, torch.Tensor], folder: Path) -> dict[str, LayerChange]:
    """The sums of a faithful merge whose weights are packed in NF4 once more."""
    merged = load_file(folder / "model.safetensors")
    layers = {}
    for name, weight in before.items():
        after = merged[f"{name}.weight"].float()
        layers[name] = layer_change(as_nf4(after), after, weight, after, as_nf4)
    return layers


def as_nf4(weight: torch.Tensor) -> torch.Tensor:
    """What NF4 makes of a weight."""
    return storage("nf4").pack(weight, block_size=64, double_quantization=True).dequantize()


def nf4_base() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A fresh base."""
    return lorakit.load_base(BASE, quantization="nf4", dtype=torch.float32, device="cpu")


def held_out(tokenizer: PreTrainedTokenizerBase) -> ExampleSet:
    """Examples that no adapter here is trained on."""
    rules = DataRules(max_length=MAX_LENGTH, max_dropped=1.0)
    return prepare_meanings(read_meanings(HELD_OUT, rules), tokenizer, rules).examples


def folder_loss(folder: Path, is_packed: bool, examples: ExampleSet, count: int) -> float:
    """The loss of a written model."""
    quantization = "checkpoint" if is_packed else "none"
    model, _ = lorakit.load_base(
        folder, quantization=quantization, dtype=torch.float32, device="cpu"
    )
    return loss(model, examples, count)


def loss(model: PreTrainedModel, examples: ExampleSet, count: int) -> float:
    """Mean loss per trained token of the first `count` examples."""
    losses = example_losses(
        model, examples, token_budget=TOKEN_BUDGET, packed=True, max_examples=count
    )
    return losses.mean


if __name__ == "__main__":
    main()
