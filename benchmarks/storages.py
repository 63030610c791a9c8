"""What each storage of the frozen base costs in accuracy, and how far int8 is from LLM.int8.

    python benchmarks/storages.py [--model builtin] [--rows 64]

For every storage of base/storages: bits per packed weight, the mean relative error of the packed
weights, and on held-out rows of the built-in data the loss and the relative difference of the
logits from the dense base. Then the same weights in bitsandbytes' own 8-bit layers, which round the
activations as well and keep outlier columns (magnitudes of 6 and more) in 16 bit. Writes a section
of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from page import command, machine, write_section
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

import lorakit
from lorakit.base.frozen_linear import FrozenLinear
from lorakit.base.load import quiet_loading
from lorakit.base.storages import quantizations
from lorakit.base.write_quantized import PackSettings, quantize_folder
from lorakit.builtin import data_folder

SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "nf4": {},
    "nf4, plain scales": {"double_quantization": False},
    "fp4": {},
    "int8": {},
}


@dataclass(frozen=True)
class Row:
    """One line of the table; None where there is nothing to say."""

    name: str
    bits: float | None
    weight_error: float | None
    loss: float
    logits_error: float


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--rows", type=int, default=64)
    options = parser.parse_args()
    assert {name.partition(",")[0] for name in SETTINGS} == set(quantizations())
    dense, tokenizer = lorakit.load_base(options.model, dtype=torch.float32, device="cpu")
    batches = token_rows(tokenizer, options.rows)
    expected = logits_of(dense, batches)
    rows = []
    for name, settings in SETTINGS.items():
        quantization = name.partition(",")[0]
        model, _ = lorakit.load_base(
            options.model, quantization=quantization, dtype=torch.float32, device="cpu", **settings
        )
        found = logits_of(model, batches)
        bits, error = of_weights(model, dense)
        loss, difference = loss_of(found, batches), relative(found, expected)
        rows.append(Row(name, bits, error, loss, difference))
        if quantization == "int8":
            peer = logits_of(in_bitsandbytes(options.model), batches)
            rows.append(
                Row(
                    "LLM.int8 (bitsandbytes)",
                    bits,
                    error,
                    loss_of(peer, batches),
                    relative(peer, expected),
                )
            )
            between = relative(peer, found)
    section = text(options.model, rows, between, sum(ids.numel() for ids in batches))
    print(section)
    write_section("Storages", section)


def token_rows(tokenizer: PreTrainedTokenizerBase, num_rows: int) -> list[torch.Tensor]:
    """Held-out conversations, each int64 (1, T)."""
    with (data_folder() / "in_domain.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line)["messages"] for line in islice(lines, num_rows)]
    return [
        torch.tensor([tokenizer.apply_chat_template(row, tokenize=True, return_dict=False)])
        for row in rows
    ]


@torch.no_grad()
def logits_of(model: PreTrainedModel, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """Logits (T, V) of each row."""
    return [model(input_ids=ids).logits[0].float() for ids in batches]


def loss_of(logits: list[torch.Tensor], batches: list[torch.Tensor]) -> float:
    """Mean negative log-likelihood of all tokens but the first of each row."""
    losses = [
        torch.nn.functional.cross_entropy(row[:-1], ids[0, 1:], reduction="sum")
        for row, ids in zip(logits, batches, strict=True)
    ]
    return float(sum(losses)) / sum(ids.numel() - 1 for ids in batches)


def relative(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """||found - expected|| / ||expected|| over all rows."""
    one, other = torch.cat(found), torch.cat(expected)
    return float((one - other).norm() / other.norm())


def of_weights(model: PreTrainedModel, dense: PreTrainedModel) -> tuple[float | None, float | None]:
    """Bits per packed weight, and the mean relative error of the packed layers."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FrozenLinear)}
    if not layers:
        return None, None
    tensors = [tensor for layer in layers.values() for tensor in layer.stored.tensors().values()]
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    num_weights = sum(layer.stored.shape.numel() for layer in layers.values())
    errors = [
        relative([layer.weight], [dense.get_parameter(f"{name}.weight")])
        for name, layer in layers.items()
    ]
    return 8 * num_bytes / num_weights, sum(errors) / len(errors)


def in_bitsandbytes(model: str) -> PreTrainedModel:
    """The same int8 weights as transformers and bitsandbytes compute with them."""
    with tempfile.TemporaryDirectory() as folder, quiet_loading():
        packed = Path(folder) / "int8"
        quantize_folder(model, packed, PackSettings("int8", dtype=torch.float32))
        return AutoModelForCausalLM.from_pretrained(packed, dtype=torch.float32).eval()


def text(model: str, rows: list[Row], between: float, num_tokens: int) -> str:
    """The section of docs/results.md."""
    lines = [
        "| storage | bits per weight | error of the weights | loss | logits against dense |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        bits = "32" if row.bits is None else f"{row.bits:.2f}"
        error = "" if row.weight_error is None else f"{row.weight_error:.2%}"
        lines.append(f"| {row.name} | {bits} | {error} | {row.loss:.4f} | {row.logits_error:.2%} |")
    table = "\n".join(lines)
    return f"""Written by `{command()}`. {machine()}

Model: {model}, computed in float32; {num_tokens} tokens of held-out conversations. Errors are
relative Frobenius norms, that of the weights a mean over the packed layers.

{table}

int8 here against the same weights in bitsandbytes' 8-bit layers, which round the activations to
8 bit as well (threshold 6.0): the logits differ by {between:.2%}.
"""


if __name__ == "__main__":
    main()
