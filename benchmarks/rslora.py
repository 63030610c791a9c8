"""How gradients and updates depend on the rank: LoRA's alpha / r against rsLoRA's alpha / sqrt(r).

    python benchmarks/rslora.py [--ranks 8 32 128 512 2048] [--seeds 3]

On the built-in base, alpha fixed at 16 (not given, rsLoRA keeps 8 at every rank: the slopes of the
gradient are the same), every linear layer adapted, one batch of the built-in instructions (arXiv
2312.03732 trains and plots the same two quantities):

    gradient  mean over layers of the Frobenius norm of dL/dB at the start (where B = 0, dL/dA = 0)
    update    mean over layers of ||scaling B A x|| / ||W x|| after a few steps, x a layer's inputs

Each is told as a slope over log rank: 0 is level, -0.5 halves with every fourfold rank. The paper's
theorem is about plain gradient steps. AdamW, whose steps do not shrink with the gradient, stands
beside it, also by the weights themselves (||scaling B A|| / ||W||, Frobenius). Writes a section of
docs/results.md and docs/images/rslora.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from matplotlib.figure import Figure
from page import command, machine, write_section
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lorakit
from lorakit.adapters.attached import attached
from lorakit.adapters.modules import AdaptedLinear
from lorakit.builtin import data_folder

PLOT = Path(__file__).parents[1] / "docs" / "images" / "rslora.png"
ALPHA = 16
NUM_ROWS = 1
NUM_STEPS = 5
# Small enough that a few plain gradient steps at rank 2048 stay in the linear regime.
SGD_LEARNING_RATE = 1e-3
ADAMW_LEARNING_RATE = 2e-4
METHODS = {"LoRA": False, "rsLoRA": True}
QUANTITIES = {
    "gradient": "gradient norm of B at the start",
    "sgd": f"change of outputs, {NUM_STEPS} gradient steps",
    "adamw": f"change of outputs, {NUM_STEPS} AdamW steps",
    "adamw_weights": f"change of weights, {NUM_STEPS} AdamW steps",
}


def main() -> None:
    """Measure, plot, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32, 128, 512, 2048])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    measured = {
        method: np.array(
            [
                [measure(rank, use_rslora, seed) for seed in range(options.seeds)]
                for rank in options.ranks
            ]
        )
        for method, use_rslora in METHODS.items()
    }  # {method: (ranks, seeds, quantities)}
    plot(options.ranks, measured).savefig(PLOT, dpi=110)
    section = text(options.ranks, measured)
    print(section)
    write_section("Rank and scaling", section)


def measure(rank: int, use_rslora: bool, seed: int) -> list[float]:
    """The four quantities of one rank and seed."""
    config = lorakit.LoraConfig(r=rank, lora_alpha=ALPHA, use_rslora=use_rslora)

    def fresh() -> tuple[PreTrainedModel, torch.Tensor]:
        model, tokenizer = lorakit.load_base("builtin", dtype=torch.float32)
        lorakit.attach_adapter(model, config, seed=seed)
        return model, batch(tokenizer)

    model, ids = fresh()
    gradients = torch.autograd.grad(
        loss_of(model, ids), [layer.adapter.lora_B for layer in adapted_layers(model)]
    )
    gradient = float(np.mean([norm(one) for one in gradients]))
    model, ids = fresh()
    train(model, ids, lambda parameters: torch.optim.SGD(parameters, SGD_LEARNING_RATE))
    by_gradient_steps = change_of_outputs(model, ids)
    model, ids = fresh()
    train(model, ids, lambda parameters: torch.optim.AdamW(parameters, ADAMW_LEARNING_RATE))
    return [gradient, by_gradient_steps, change_of_outputs(model, ids), change_of_weights(model)]


def train(
    model: PreTrainedModel,
    ids: torch.Tensor,
    make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
) -> None:
    """A few steps on the batch."""
    optimizer = make(list(attached(model).parameters().values()))
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        loss_of(model, ids).backward()
        optimizer.step()


def adapted_layers(model: PreTrainedModel) -> list[AdaptedLinear]:
    """Every layer that was changed: all are linear."""
    return [one for one in attached(model).modules.values() if isinstance(one, AdaptedLinear)]


@torch.no_grad()
def change_of_outputs(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """Mean over layers of the low-rank branch's output, relative to the frozen weight's."""
    ratios = []

    def compare(layer: AdaptedLinear, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> None:
        (x,) = inputs
        a, b = layer.adapter.lora_A, layer.adapter.lora_B
        change = layer.adapter.scaling * norm(x @ a.T @ b.T)
        ratios.append(change / norm(layer.base_layer.product(x)))

    hooks = [layer.register_forward_hook(compare) for layer in adapted_layers(model)]
    model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return float(np.mean(ratios))


@torch.no_grad()
def change_of_weights(model: PreTrainedModel) -> float:
    """Mean over layers of ||scaling B A|| relative to ||W||."""
    ratios = []
    for layer in adapted_layers(model):
        a, b = layer.adapter.lora_A, layer.adapter.lora_B
        # ||B A||^2 = tr(B^T B A A^T)
        product = ((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt()
        ratios.append(layer.adapter.scaling * float(product) / norm(layer.base_layer.weight))
    return float(np.mean(ratios))


def batch(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """The first built-in conversations, one after the other in a row: int64 (1, T)."""
    ids: list[int] = []
    with (data_folder() / "train.jsonl").open(encoding="utf-8") as lines:
        for line in islice(lines, NUM_ROWS):
            messages = json.loads(line)["messages"]
            row = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
            ids += cast(list[int], row)
    return torch.tensor([ids])


def loss_of(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of the row."""
    return model(input_ids=ids, labels=ids).loss


def norm(tensor: torch.Tensor) -> float:
    """Frobenius norm."""
    return float(torch.linalg.vector_norm(tensor.detach()))


def slope(ranks: list[int], values: np.ndarray) -> float:
    """Of log value over log rank, least squares."""
    return float(np.polyfit(np.log(ranks), np.log(values), 1)[0])


def plot(ranks: list[int], measured: dict[str, np.ndarray]) -> Figure:
    """A panel for each quantity: relative to the smallest rank, both axes logarithmic."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    panels = figure.subplots(1, len(QUANTITIES), sharey=True)
    for place, (panel, title) in enumerate(zip(panels, QUANTITIES.values(), strict=True)):
        for (method, values), style in zip(measured.items(), ("o--", "s-"), strict=True):
            means = values[:, :, place].mean(axis=1)
            panel.plot(ranks, means / means[0], style, label=method)
        panel.set(xscale="log", yscale="log", xlabel="rank")
        panel.set_title(title, fontsize="medium")
        panel.set_xticks(ranks, [str(rank) for rank in ranks])
        panel.minorticks_off()
        panel.axhline(1, color="0.7", linewidth=0.8)
        panel.grid(axis="y", color="0.9")
        panel.legend(frameon=False)
    panels[0].set_ylabel(f"relative to rank {ranks[0]}")
    return figure


def text(ranks: list[int], measured: dict[str, np.ndarray]) -> str:
    """The section of docs/results.md."""
    header = " | ".join(f"rank {rank}" for rank in ranks)
    lines = [f"| quantity | method | {header} | slope |", f"|---|---|{'---|' * (len(ranks) + 1)}"]
    for place, title in enumerate(QUANTITIES.values()):
        for method, values in measured.items():
            means = values[:, :, place].mean(axis=1)
            numbers = " | ".join(f"{mean:.3g}" for mean in means)
            lines.append(f"| {title} | {method} | {numbers} | {slope(ranks, means):+.2f} |")
    table = "\n".join(lines)
    seeds = next(iter(measured.values())).shape[1]
    return f"""Written by `{command()}`. {machine()}

The built-in base, all linear layers, alpha {ALPHA}, {NUM_ROWS} conversation, float32,
means over layers and {seeds} seeds. Slope: of log value over log rank; 0 is level. Gradient steps
with learning rate {SGD_LEARNING_RATE:g}, AdamW with {ADAMW_LEARNING_RATE:g}.

{table}

![Gradient and update norms over the rank](images/rslora.png)
"""


if __name__ == "__main__":
    main()
