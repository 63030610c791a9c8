"""Generated tokens per second: lorakit's sampler against `model.generate` of transformers.

    python benchmarks/sampler.py
    python benchmarks/sampler.py --rounds 5 --model lorakit/builtin/model --model FOLDER

The work: 64 prompts of 10 to 300 tokens, whose answers have 5 to 200 tokens, each its own number,
taken greedily. transformers gets one batch, padded on the left, and a stop criterion that ends
every row at its own length; it runs until the longest is done. A token counts once, if it lies
within its answer's length.

Every measurement is a process of its own, with one small batch to warm up; the two samplers take
turns, and each round gives one ratio. CPU seconds are given beside the speed: on a machine that
does other work too, they tell more than the clock.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from page import machine, write_section
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria

from lorakit.base.load import load_base
from lorakit.builtin import model_folder
from lorakit.generate import SamplingSettings, generate

NUM_PROMPTS = 64
PROMPT_LENGTHS = (10, 300)
ANSWER_LENGTHS = (5, 200)
SAMPLERS = ("transformers", "lorakit")


def main() -> None:
    """Measure every model and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", action="append", help="folder; several times for several")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    table = []
    for model in options.model or [str(model_folder())]:
        table += lines(model, options.rounds)
        print("\n".join(table[-len(SAMPLERS) :]), flush=True)
    write_section("Sampler", text(table, options.rounds, shlex.join(sys.argv[1:])))


def text(table: list[str], rounds: int, options: str) -> str:
    """The section of docs/results.md."""
    prompts = "{} prompts of {} to {} tokens".format(NUM_PROMPTS, *PROMPT_LENGTHS)
    answers = "answers of {} to {}".format(*ANSWER_LENGTHS)
    command = f"python benchmarks/sampler.py {options}".strip()
    rows = "\n".join(table)
    return f"""Written by `{command}`. {machine()} {torch.get_num_threads()} threads.

{prompts}, {answers}, greedy, float32; median (lowest to highest) of {rounds} rounds, each sampler
in a process of its own, by turns. The ratio is to `model.generate` of transformers, padded on the
left.

| model | sampler | tokens/s | CPU s | ratio | CPU ratio | same tokens |
|---|---|---|---|---|---|---|
{rows}
"""


def lines(model: str, rounds: int) -> list[str]:
    """Two lines of the table: what is compared with, and the sampler with its ratios to it."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in SAMPLERS}
    for _ in range(rounds):
        for name in SAMPLERS:
            results[name].append(in_a_process(name, model))
    table = []
    for name in SAMPLERS:
        mine, theirs = results[name], results["transformers"]
        pairs = list(zip(mine, theirs, strict=True))
        same = [agreement(mine["tokens"], theirs["tokens"]) for mine, theirs in pairs]
        columns = [
            spread([one["tokens_per_second"] for one in mine], ",.0f"),
            spread([one["cpu_seconds"] for one in mine], ".1f"),
            spread([a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs], ".2f"),
            spread([b["cpu_seconds"] / a["cpu_seconds"] for a, b in pairs], ".2f"),
            f"{min(same):.1%}",
        ]
        table.append(f"| {name_of(model)} | {name} | {' | '.join(columns)} |")
    return table


def name_of(folder: str) -> str:
    """The built-in base by its name, any other model by its folder's."""
    built_in = Path(folder).resolve() == model_folder().resolve()
    return "built-in" if built_in else Path(folder).name


def agreement(mine: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of the answers' tokens that are equal, up to an answer's first difference."""
    equal = total = 0
    for a, b in zip(mine, theirs, strict=True):
        differing = [place for place, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
        equal += differing[0] if differing else len(a)
        total += len(a)
    return equal / total


def spread(values: list[float], form: str) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} - {max(values):{form}})"


def in_a_process(sampler: str, model: str) -> dict[str, Any]:
    """Run this script again for one measurement."""
    command = [sys.executable, __file__, "--one", sampler, model]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(sampler: str, folder: str) -> dict[str, Any]:
    """Generate once; speed, CPU time and the tokens of each answer."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run = {"transformers": with_transformers, "lorakit": with_lorakit}[sampler](folder)
    prompts, lengths = work(json.loads((Path(folder) / "config.json").read_text())["vocab_size"])
    run(prompts[:4], [3] * 4)
    started, cpu_started = time.perf_counter(), time.process_time()
    tokens = run(prompts, lengths)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    assert [len(answer) for answer in tokens] == lengths
    return {
        "tokens_per_second": sum(lengths) / seconds,
        "cpu_seconds": cpu_seconds,
        "tokens": tokens,
    }


def work(vocabulary: int) -> tuple[list[list[int]], list[int]]:
    """Prompts of random tokens, and how long their answers are."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(PROMPT_LENGTHS[0], PROMPT_LENGTHS[1] + 1, NUM_PROMPTS)
    lengths = generator.integers(ANSWER_LENGTHS[0], ANSWER_LENGTHS[1] + 1, NUM_PROMPTS)
    prompts = [generator.integers(5, vocabulary, size).tolist() for size in sizes]
    return prompts, lengths.tolist()


def with_lorakit(folder: str):
    """A function from prompts and lengths to answers."""
    model, tokenizer = load_base(folder, dtype=torch.float32)
    settings = SamplingSettings(temperature=0, ignore_eos=True)

    def run(prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        completions = generate(model, tokenizer, prompts, settings, max_new_tokens=lengths)
        return [completion.token_ids for completion in completions]

    return run


class OwnLengths(StoppingCriteria):
    """Ends each row at its own length."""

    def __init__(self, width: int, lengths: list[int], device: torch.device) -> None:
        self.ends = torch.tensor(lengths, device=device) + width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any):
        return input_ids.shape[1] >= self.ends


def with_transformers(folder: str):
    """The same with transformers' own model, attention and cache."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.generation_config = GenerationConfig(pad_token_id=0)

    def run(prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[width - len(prompt) :] = torch.tensor(prompt)
        ids = ids.to(model.device)
        out = model.generate(
            ids,
            # No prompt has token 0.
            attention_mask=(ids != 0).long(),
            do_sample=False,
            max_new_tokens=max(lengths),
            stopping_criteria=[OwnLengths(width, lengths, model.device)],
        )
        return [row[width:][:length].tolist() for row, length in zip(out, lengths, strict=True)]

    return run


if __name__ == "__main__":
    main()
