"""One batch with rows of several adapters against one batch for each adapter.

    python benchmarks/several.py [--model builtin] [--adapters 8] [--rows 1] [--repeats 9]

For every adapter so many rows: a forward pass (64 tokens a row) and a generation (64 tokens asked,
64 answered), once mixed and once adapter by adapter, the switch between them included. Dense and
NF4 base, on the CPU with one thread. Writes a section of docs/results.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from page import command, machine, write_section
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lorakit
from lorakit.adapters.attached import attached
from lorakit.generate import SamplingSettings, generate

TOKENS = 64
GREEDY = SamplingSettings(temperature=0, max_new_tokens=TOKENS, ignore_eos=True)


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for quantization in ("none", "nf4"):
        model, tokenizer = lorakit.load_base(
            options.model, quantization=quantization, dtype=torch.float32, device="cpu"
        )
        names = [f"adapter-{number}" for number in range(options.adapters)]
        attach(model, names)
        rows = [name for name in names for _ in range(options.rows)]
        ways = ways_to_run(model, tokenizer, rows)
        for what, (mixed, apart) in ways.items():
            together, one_by_one = seconds(mixed, apart, options.repeats)
            lines.append(
                f"| {quantization} | {what} | {1000 * together:.0f} | {1000 * one_by_one:.0f} | "
                f"{one_by_one / together:.2f} |"
            )
        lines.append(f"| {quantization} | a switch alone | | {1000 * switch(model, names):.1f} | |")
    section = text(options.model, options.adapters, options.rows, options.repeats, lines)
    print(section)
    write_section("Several adapters", section)


@torch.no_grad()
def attach(model: PreTrainedModel, names: list[str]) -> None:
    """LoRA and DoRA in turn, none of them at its start."""
    generator = torch.Generator().manual_seed(0)
    for number, name in enumerate(names):
        config = lorakit.LoraConfig(r=16, kind="lora" if number % 2 == 0 else "dora")
        lorakit.attach_adapter(model, config, name=name)
        for parameter in attached(model).parameters().values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def ways_to_run(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[str]
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """{what: (mixed, adapter by adapter)}"""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 500, (len(rows), TOKENS), generator=generator)
    asked = ids.tolist()
    places = {name: [i for i, row in enumerate(rows) if row == name] for name in rows}

    @torch.no_grad()
    def mixed_pass() -> None:
        with lorakit.adapters_by_row(model, rows):
            model(input_ids=ids, use_cache=False)

    @torch.no_grad()
    def passes_apart() -> None:
        for name, own in places.items():
            lorakit.use_adapter(model, name)
            model(input_ids=ids[own], use_cache=False)

    def mixed_answers() -> None:
        generate(model, tokenizer, asked, GREEDY, adapters=rows)

    def answers_apart() -> None:
        for name, own in places.items():
            lorakit.use_adapter(model, name)
            generate(model, tokenizer, [asked[i] for i in own], GREEDY)

    return {
        "forward pass": (mixed_pass, passes_apart),
        "generation": (mixed_answers, answers_apart),
    }


def seconds(
    mixed: Callable[[], object], apart: Callable[[], object], repeats: int
) -> tuple[float, float]:
    """Medians, measured in turn; a first round warms up."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for taken, run in zip(times, (mixed, apart), strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def switch(model: PreTrainedModel, names: list[str]) -> float:
    """Seconds of one `use_adapter`, a mean of 200."""
    start = time.perf_counter()
    for number in range(200):
        lorakit.use_adapter(model, names[number % len(names)])
    return (time.perf_counter() - start) / 200


def text(model: str, adapters: int, rows: int, repeats: int, lines: list[str]) -> str:
    """The section of docs/results.md."""
    table = "\n".join(lines)
    return f"""Written by `{command()}`. {machine()} One thread.

Model: {model}, float32; {adapters} adapters (LoRA and DoRA in turn, r 16, all linear layers),
{rows} row(s) of each. A forward pass has {TOKENS} tokens a row; a generation continues {TOKENS}
tokens by {TOKENS}. "apart": one batch for each adapter, with the switches. Both ways in turn,
medians of {repeats}.

| base | what | mixed, ms | apart, ms | apart / mixed |
|---|---|---|---|---|
{table}
"""


if __name__ == "__main__":
    main()
