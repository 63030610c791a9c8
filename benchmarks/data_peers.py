"""Rows per second of making training data: lorakit, TRL, and the bare tokenizer.

    .venv/bin/python benchmarks/data_peers.py                    # comparison and second start
    .venv/bin/python benchmarks/data_peers.py --growth 1000 10000 100000 1000000
    .venv/bin/python benchmarks/data_peers.py --rows 2000 --rounds 1  # a quick look

Questions and answers of a JSONL file become token ids with a mask for the answers, and batches.
Each line is a process of its own; the lines take turns, round by round, so that a busy minute hits
all of them. Start-up (imports, loading the tokenizer) is not counted. On a machine that does other
things as well, the CPU time of a row says more than the speed. What is timed:

- `lorakit`: from the file to the store on disk and one epoch's order; reading the rows and the
  checks of the data contract included. Packing is done step by step, and timed apart.
- `lorakit, rows in memory`: the same from a list of dicts that was read already.
- `trl`: the preparation of `SFTTrainer` itself, by making one with a model of one tiny layer, from
  a `datasets.Dataset` that was read already: prompt and completion as messages, packed best-fit
  decreasing into rows of --max-length tokens, in one process and in as many as there are cores.
- `bare tokenizer`: `encode_batch` of tokenizers on exactly the texts that lorakit renders.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
# Without its own template a tokenizer gets ChatML, the most common one.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BATCH_SIZE = 8
TOKEN_BUDGET = 4096
LINES = ("bare tokenizer", "lorakit", "lorakit, rows in memory", "trl", "trl, all cores")


def main() -> None:
    """Measure what was asked for and print it as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "tokenizers" / "gpt2")
    parser.add_argument("--data", type=Path, default=SHARED / "medquad" / "medquad_train.jsonl")
    parser.add_argument("--rows", type=int, help="only so many, drawn at random")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=8192)
    parser.add_argument(
        "--growth", type=int, nargs="+", help="measure lorakit at these sizes instead"
    )
    parser.add_argument("--characters", type=int, default=200, help="of an answer, under --growth")
    parser.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES))
    parser.add_argument("--line", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.line:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(MEASURES[options.line](options, Path(folder))))
        return
    if not options.data.exists() or not options.tokenizer.exists():
        sys.exit(
            f"{options.data} and {options.tokenizer} are needed; name others with the options."
        )
    print(_machine(options) + "\n")
    if options.growth:
        growth(options)
    else:
        comparison(options)


def comparison(options: argparse.Namespace) -> None:
    """Every line in every round, then the second start."""
    with tempfile.TemporaryDirectory() as folder:
        data = _sample(options, Path(folder))
        results: dict[str, list[dict[str, float]]] = {line: [] for line in options.lines}
        for _ in range(options.rounds):
            for line in options.lines:
                results[line].append(_in_a_process(options, line, data))
        second = [_in_a_process(options, "second start", data) for _ in range(options.rounds)]
    speeds = {
        line: [one["rows"] / one["seconds"] for one in many] for line, many in results.items()
    }
    print("| | rows/s | lowest - highest | of bare | of trl | CPU ms a row | peak RSS MiB |")
    print("|---|---|---|---|---|---|---|")
    trl = [many for line, many in speeds.items() if line.startswith("trl")]
    best_trl = [max(each) for each in zip(*trl, strict=True)]
    for line, many in results.items():
        of_bare = _ratio(speeds[line], speeds.get("bare tokenizer", []))
        of_trl = _ratio(speeds[line], best_trl)
        cpu = statistics.median(one["cpu_seconds"] / one["rows"] * 1e3 for one in many)
        peak = statistics.median(one["peak_bytes"] for one in many) / 2**20
        print(
            f"| {line} | {statistics.median(speeds[line]):,.0f} | {min(speeds[line]):,.0f} - "
            f"{max(speeds[line]):,.0f} | {of_bare:.2f} | {of_trl:.2f} | {cpu:.2f} | {peak:,.0f} |"
        )
    tokens = {int(one["tokens"]) for line in options.lines for one in results[line]}
    rows = int(next(iter(results.values()))[0]["rows"])
    print(
        f"\n{rows} rows, tokens {sorted(tokens)}; ratios are medians "
        "over the rounds of the ratio within a round; of trl: the faster of its two lines"
    )
    seconds = [one["seconds"] for one in second]
    batches = [one["step_ms"] for many in results.values() for one in many if "step_ms" in one]
    spread = f"{min(seconds):.2f} - {max(seconds):.2f}"
    print(f"\nsecond start: {statistics.median(seconds):.2f} s ({spread})")
    print(
        f"\na step's batch of {BATCH_SIZE} examples, read, packed and laid out: "
        f"{statistics.median(batches):.2f} ms"
    )


def growth(options: argparse.Namespace) -> None:
    """lorakit's time and memory at growing numbers of rows."""
    print(
        "| rows | seconds | ms a row | an epoch's order and batches, us a row | a batch, ms "
        "| peak RSS MiB | second start s |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in options.growth:
            data = _grown(options, Path(folder), count)
            one = _in_a_process(options, "growth", data)
            print(
                f"| {count:,} | {one['seconds']:.1f} | {one['seconds'] / count * 1e3:.3f} "
                f"| {one['order_seconds'] / count * 1e6:.2f} | {one['step_ms']:.2f} "
                f"| {one['peak_bytes'] / 2**20:,.0f} | {one['second_seconds']:.2f} |",
                flush=True,
            )
            data.unlink()


# --- what is measured, each in a process of its own ----------------------------------------------


def measure_lorakit(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """From the file to the store, and an epoch's batches."""
    return _lorakit(options, folder, options.data)


def measure_lorakit_in_memory(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """From rows that were read already."""
    return _lorakit(options, folder, _rows(options.data))


def _lorakit(options: argparse.Namespace, folder: Path, source: Any) -> dict[str, float]:
    from lorakit.data.meanings import DataRules
    from lorakit.data.prepare import prepare_examples
    from lorakit.train.batches import StepBatches

    tokenizer = _tokenizer(options)
    clock = _Clock()
    prepared = prepare_examples(source, tokenizer, DataRules(), cache_dir=folder)
    batches = StepBatches(
        prepared.examples,
        prepared.repeats,
        batch_size=BATCH_SIZE,
        seed=0,
        token_budget=TOKEN_BUDGET,
        packed=True,
    )
    result = clock.result(prepared.kept, int(prepared.examples.lengths.sum()))
    return result | {"step_ms": _step_ms(batches)}


def measure_second_start(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The store is there already: written by another process, opened by this one."""
    from lorakit.data.meanings import DataRules
    from lorakit.data.prepare import prepare_examples

    subprocess.run(
        [
            sys.executable,
            "-c",
            _FIRST_START,
            str(options.tokenizer),
            str(options.data),
            str(folder),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    tokenizer = _tokenizer(options)
    clock = _Clock()
    prepared = prepare_examples(options.data, tokenizer, DataRules(), cache_dir=folder)
    return clock.result(prepared.kept, int(prepared.examples.lengths.sum()))


_FIRST_START = """
import sys
from pathlib import Path
from benchmarks.data_peers import load_tokenizer
from lorakit.data.meanings import DataRules
from lorakit.data.prepare import prepare_examples
tokenizer = load_tokenizer(Path(sys.argv[1]))
prepare_examples(Path(sys.argv[2]), tokenizer, DataRules(), cache_dir=sys.argv[3])
"""


def measure_growth(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """lorakit at one size, its order and its second start."""
    from lorakit.data.meanings import DataRules
    from lorakit.data.prepare import prepare_examples
    from lorakit.train.batches import StepBatches

    tokenizer = _tokenizer(options)
    clock = _Clock()
    prepared = prepare_examples(options.data, tokenizer, DataRules(), cache_dir=folder)
    result = clock.result(prepared.kept, int(prepared.examples.lengths.sum()))
    started = time.perf_counter()
    batches = StepBatches(
        prepared.examples,
        prepared.repeats,
        batch_size=BATCH_SIZE,
        seed=0,
        token_budget=TOKEN_BUDGET,
        packed=True,
    )
    result["order_seconds"] = time.perf_counter() - started
    result["step_ms"] = _step_ms(batches)
    started = time.perf_counter()
    prepare_examples(options.data, tokenizer, DataRules(), cache_dir=folder)
    result["second_seconds"] = time.perf_counter() - started
    result["peak_bytes"] = _peak_bytes()
    return result


def _step_ms(batches: Any, count: int = 200) -> float:
    times = []
    for step in range(min(count, batches.steps_per_epoch)):
        started = time.perf_counter()
        batches[step]
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def measure_bare(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """encode_batch on the texts that lorakit renders."""
    from lorakit.data.meanings import DataRules, read_meanings
    from lorakit.data.render import Renderer

    tokenizer = _tokenizer(options)
    template = Renderer(tokenizer).template
    meanings = read_meanings(options.data, DataRules())
    texts = template.render_many([(m.conversation.messages, (), False) for m in meanings])
    backend = tokenizer.backend_tokenizer
    clock = _Clock()
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    return clock.result(len(texts), sum(map(len, encodings)))


def measure_trl(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """SFTTrainer's own preparation in one process."""
    return _trl(options, folder, None)


def measure_trl_all_cores(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """SFTTrainer's own preparation in as many processes as there are cores."""
    return _trl(options, folder, os.cpu_count())


def _trl(options: argparse.Namespace, folder: Path, num_proc: int | None) -> dict[str, float]:
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    tokenizer = _tokenizer(options)
    tokenizer.pad_token = tokenizer.eos_token
    tiny = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    rows = [
        {
            "prompt": [{"role": "user", "content": row["question"]}],
            "completion": [{"role": "assistant", "content": row["answer"]}],
        }
        for row in _rows(options.data)
    ]
    # On disk, as a data set loaded from a file is: only then are its maps cached and shared.
    datasets.Dataset.from_list(rows).save_to_disk(folder / "rows")
    dataset = datasets.load_from_disk(folder / "rows")
    settings = SFTConfig(
        output_dir=str(folder / "out"),
        packing=True,
        max_length=options.max_length,
        completion_only_loss=True,
        dataset_num_proc=num_proc,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    model = LlamaForCausalLM(tiny)
    clock = _Clock()
    trainer = SFTTrainer(model, settings, train_dataset=dataset, processing_class=tokenizer)
    return clock.result(len(rows), sum(map(len, trainer.train_dataset["input_ids"])))


MEASURES: dict[str, Callable[[argparse.Namespace, Path], dict[str, float]]] = {
    "bare tokenizer": measure_bare,
    "lorakit": measure_lorakit,
    "lorakit, rows in memory": measure_lorakit_in_memory,
    "trl": measure_trl,
    "trl, all cores": measure_trl_all_cores,
    "second start": measure_second_start,
    "growth": measure_growth,
}


# --- around them ---------------------------------------------------------------------------------


class _Clock:
    """Wall and CPU time, that of child processes included, since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = _cpu_seconds(), time.perf_counter()

    def result(self, rows: int, tokens: int) -> dict[str, float]:
        seconds = time.perf_counter() - self._wall
        return {
            "seconds": seconds,
            "cpu_seconds": _cpu_seconds() - self._cpu,
            "rows": rows,
            "tokens": tokens,
            "peak_bytes": _peak_bytes(),
        }


def _cpu_seconds() -> float:
    """Of this process and its children, the running ones too."""
    import psutil

    me = psutil.Process()
    ended = sum(me.cpu_times()[:4])
    return ended + sum(sum(child.cpu_times()[:2]) for child in me.children(recursive=True))


def _peak_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load_tokenizer(path: Path) -> Any:
    """The tokenizer with a chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.chat_template is None:
        special = ["<|im_start|>", "<|im_end|>"]
        tokenizer.add_special_tokens({"additional_special_tokens": special})
        tokenizer.chat_template = CHATML
    return tokenizer


def _tokenizer(options: argparse.Namespace) -> Any:
    tokenizer = load_tokenizer(options.tokenizer)
    tokenizer("warm")  # loads what is loaded lazily
    return tokenizer


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def _sample(options: argparse.Namespace, folder: Path) -> Path:
    """The data file, or a file of so many of its rows."""
    if options.rows is None:
        return options.data
    rows = random.Random(0).sample(_rows(options.data), options.rows)
    return _written(folder / "sample.jsonl", rows)


def _grown(options: argparse.Namespace, folder: Path, count: int) -> Path:
    """`count` different rows with the beginnings of the answers."""
    rows = _rows(options.data)
    path = folder / f"{count}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            row = rows[i % len(rows)]
            answer = f"{row['answer'][: options.characters]} ({i})"
            file.write(json.dumps({"question": row["question"], "answer": answer}) + "\n")
    return path


def _written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _in_a_process(options: argparse.Namespace, line: str, data: Path) -> dict[str, float]:
    """Run this script again for one line of the table."""
    arguments = ["--line", line, "--data", str(data), "--tokenizer", str(options.tokenizer)]
    arguments += ["--max-length", str(options.max_length)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _ratio(many: list[float], of: list[float]) -> float:
    if not of:  # not measured
        return math.nan
    return statistics.median(a / b for a, b in zip(many, of, strict=True))


def _machine(options: argparse.Namespace) -> str:
    names = ("lorakit", "tokenizers", "transformers", "trl", "datasets", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{platform.platform()}, {os.cpu_count()} cores, load before the start {load}; Python "
        f"{platform.python_version()}, {versions}\n\nTokenizer {options.tokenizer.name}, data "
        f"{options.data.name}; command: `python benchmarks/data_peers.py {' '.join(sys.argv[1:])}`"
    )


if __name__ == "__main__":
    main()
