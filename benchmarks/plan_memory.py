"""Predicted against measured peak memory on a CPU: does the plan tell the truth?

    python benchmarks/plan_memory.py
    python benchmarks/plan_memory.py --only llama-nf4
    python benchmarks/plan_memory.py --evaluation
    python benchmarks/plan_memory.py --floor

Families, dense and NF4, LoRA and DoRA, without and with full recompute, two shapes of batches. The
models are random, made by this script, and so small beside their micro-batches that activations are
most of the peak. Each configuration is loaded and trained for two steps in a process of its own;
its memory is resident memory at the highest, less what the interpreter held after all imports, as
in `peak_bytes` of metrics.jsonl. The plan is made in another process, from config.json and lengths.
With `--evaluation` it is the final evaluation that is measured and planned: losses of long rows, KL
over a large vocabulary, options, answers to many prompts.
With `--floor` models of next to nothing are loaded and trained, whose memory is that of libraries:
`plan/libraries.py` has its numbers from there. The first run after an installation compiles ops
and takes far more, so one configuration is trained before any is measured.
Ends with 1 when a prediction is off by more than 10 %.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from contest import MIB, Memory, did_the_task, in_a_process, results_file, table, work_folder
from page import command, machine, write_section
from transformers import PreTrainedTokenizerBase

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 8, "num_key_value_heads": 4},
    "qwen3": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 48},
    "gemma2": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64},
}
COMMON = {
    "vocab_size": 2048,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
# Tokens of each example of a step, which is one micro-batch.
BATCHES = {"many short": [256] * 32, "few long": [1500, 1300, 1200]}
NUM_STEPS = 2
RANK = 16
# Of the evaluation: rows of each set; sizes over those of COMMON.
WIDE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 2}
MANY_WORDS = {"vocab_size": 131_072, "hidden_size": 256, "num_hidden_layers": 2}
EVALUATIONS: dict[str, dict[str, Any]] = {
    name: {
        "family": re.split("[_-]", name)[0],
        "quantization": "nf4" if "nf4" in name else "none",
        "use_dora": "dora" in name,
        "recompute": "none",
        "lengths": [256] * 4,
        "micro_batch_tokens": None,
        **given,
    }
    for name, given in {
        "llama_wide-long-row": {
            "sizes": WIDE | {"max_position_embeddings": 8192},
            "held_out": {"in_domain": [300] * 8 + [4200]},
            "evaluate": {"metrics": ["loss"]},
        },
        "llama_words-kl": {
            "sizes": MANY_WORDS,
            "held_out": {"in_domain": [200] * 8, "retention": [400] * 8},
            "evaluate": {"metrics": ["loss"]},
        },
        "llama_words-choices": {
            "sizes": MANY_WORDS,
            "held_out": {"in_domain": [400] * 8},
            "evaluate": {"metrics": ["loss", "choice"]},
        },
        "llama-none-lora-answers": {
            "held_out": {"in_domain": [200] * 20 + [600] * 100},
            "evaluate": {"metrics": ["loss", "exact_match"], "max_new_tokens": 150},
        },
        "llama-nf4-dora-answers": {
            "held_out": {"in_domain": [700] * 64},
            "evaluate": {"metrics": ["loss", "exact_match"], "max_new_tokens": 100},
        },
        "qwen3-nf4-lora-few-at-a-time": {
            "held_out": {"in_domain": [3000] * 20},
            "evaluate": {
                "metrics": ["loss", "exact_match"],
                "max_new_tokens": 60,
                "max_batch": 12,
            },
        },
        "gemma2-none-dora-answers": {
            "held_out": {"in_domain": [600] * 64},
            "evaluate": {"metrics": ["loss", "exact_match"], "max_new_tokens": 60},
        },
    }.items()
}
# Of `--floor`: models whose tensors are less than one MiB, and their batches.
NEXT_TO_NOTHING = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "head_dim": 16,
}
LIMIT = 0.10


def main() -> None:
    """Measure every configuration, print and write the table."""
    if did_the_task(answer):
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="configurations whose name begins so")
    parser.add_argument("--threads", type=int, help="of the CPU; left out: torch's choice")
    parser.add_argument("--workdir", type=Path, help="where models are kept for the next time")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--evaluation", action="store_true", help="instead of training")
    kind.add_argument("--floor", action="store_true", help="of models of next to nothing")
    options = parser.parse_args()
    possible = configurations()
    if options.evaluation:
        possible = EVALUATIONS
    elif options.floor:
        possible = floors()
    names = [name for name in possible if name.startswith(options.only)]
    if not names:
        parser.error(f"no configuration begins with {options.only!r}")
    with work_folder(options.workdir) as folder:
        measure(names[0], possible[names[0]], folder, options.threads)  # compiles what is not yet
        rows = [measure(name, possible[name], folder, options.threads) for name in names]
    if options.floor:
        print(report_floors(rows))
        return
    text = report(rows)
    print(text)
    path = results_file("plan_memory_evaluation" if options.evaluation else "plan_memory")
    if not options.only:
        what = " of the evaluation" if options.evaluation else ""
        write_section(f"Peak memory{what}, predicted and measured", text, path)
        path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    held = ("peak",) if options.evaluation else ("peak", "load")
    sys.exit(any(abs(row[f"{what}_error"]) > LIMIT for row in rows for what in held))


def configurations() -> dict[str, dict[str, Any]]:
    """{name: task}."""
    found = {}
    for family, storage, kind, recompute, batch in product(
        FAMILIES, ("none", "nf4"), ("lora", "dora"), ("none", "full"), BATCHES
    ):
        name = f"{family}-{storage}-{kind}-{recompute}-{batch.replace(' ', '-')}"
        found[name] = {
            "family": family,
            "quantization": storage,
            "use_dora": kind == "dora",
            "recompute": recompute,
            "lengths": BATCHES[batch],
        }
    return found


def floors() -> dict[str, dict[str, Any]]:
    """{name: task} of `--floor`."""
    return {
        f"{family}_floor-{storage}": {
            "family": family,
            "quantization": storage,
            "use_dora": False,
            "recompute": "none",
            "lengths": [64] * 2,
            "sizes": NEXT_TO_NOTHING,
        }
        for family, storage in product(FAMILIES, ("none", "nf4", "int8"))
    }


def measure(name: str, task: dict[str, Any], folder: Path, threads: int | None) -> dict[str, Any]:
    """One line of the table, told on stderr as it is made."""
    started = time.perf_counter()
    task = task | {"model": str(folder / name.partition("-")[0])}
    if not Path(task["model"]).is_dir():
        in_a_process(__file__, task | {"do": "save"}, threads)
    planned = in_a_process(__file__, task | {"do": "plan"}, threads)
    does = "evaluate" if "held_out" in task else "train"
    measured = in_a_process(__file__, task | {"do": does}, threads)
    row = {"name": name, "planned": planned, "measured": measured}
    row |= {"held_out": task["held_out"]} if "held_out" in task else {}
    for what in ("peak", "load"):
        row[f"{what}_error"] = planned[what] / measured[what] - 1
    seconds = time.perf_counter() - started
    print(f"{name}: {row['peak_error']:+.1%}, {seconds:.0f} s", file=sys.stderr)
    return row


def report(rows: list[dict[str, Any]]) -> str:
    """The table, and how it came about."""
    lines = []
    for row in rows:
        planned, measured = row["planned"], row["measured"]
        lines.append(
            [
                row["name"],
                *(f"{one / MIB:,.0f}" for one in (planned["peak"], measured["peak"])),
                f"{row['peak_error']:+.1%}",
                f"{planned['activations'] / planned['peak']:.0%}",
                *(f"{one / MIB:,.0f}" for one in (planned["load"], measured["load"])),
                f"{row['load_error']:+.1%}",
            ]
        )
    columns = ["configuration", "predicted MiB", "measured MiB", "error", "of it activations"]
    columns += ["load predicted", "load measured", "error"]
    worst = {what: max(abs(row[f"{what}_error"]) for row in rows) for what in ("peak", "load")}
    of = "the evaluation" if "held_out" in rows[0] else "two steps"
    return f"""Written by `{command()}`. {machine()}

Peak of {of} beside what the interpreter held after all imports, in a process of its own each.
Largest error of the peak {worst["peak"]:.1%}, of the load {worst["load"]:.1%}.

{table(columns, lines)}
"""


def report_floors(rows: list[dict[str, Any]]) -> str:
    """What libraries take, in MiB, as measured and as the plan counts it."""
    columns = ["configuration", "loading", "planned", "training", "planned"]
    lines = [
        [row["name"]]
        + [
            f"{row[of][what] / MIB:,.0f}"
            for what in ("load", "peak")
            for of in ("measured", "planned")
        ]
        for row in rows
    ]
    return table(columns, lines)


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task, in the process that was started for it."""
    does = {"save": save, "plan": plan_one, "train": train_one, "evaluate": evaluate_one}
    return does[task["do"]](task)


def save(task: dict[str, Any]) -> dict[str, Any]:
    """A random model of the family."""
    from transformers import AutoModelForCausalLM

    from lorakit.base import attention
    from lorakit.base.config import model_config

    attention.register()
    sizes = COMMON | FAMILIES[task["family"]] | task.get("sizes", {})
    config = model_config({"model_type": task["family"], **sizes})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(task["model"])
    return {}


def examples_of(task: dict[str, Any]) -> Any:
    """The rows of all steps."""
    return rows_of(task["lengths"] * NUM_STEPS)


def rows_of(lengths: list[int]) -> Any:
    """Rows of these lengths, half of each trained."""
    from lorakit.data.examples import Example, examples_in_memory

    made = []
    for length in lengths:
        weights = np.zeros(length, dtype=np.float32)
        weights[length // 2 :] = 1
        made.append(Example(np.full(length, 5, dtype=np.int32), weights))
    return examples_in_memory(made)


def recipe_of(task: dict[str, Any]) -> Any:
    """The recipe of a configuration."""
    from lorakit.recipe import parse_recipe

    base = {"model": task["model"], "device": "cpu", "quantization": task["quantization"]}
    train = {
        "max_steps": NUM_STEPS,
        "batch_size": len(task["lengths"]),
        "micro_batch_tokens": task.get("micro_batch_tokens", sum(task["lengths"])),
        "gradient_checkpointing": task["recompute"] == "full",
        "worst_batch_first": False,
        "compact_heap": True,
    }
    adapter = {"r": RANK, "use_dora": task["use_dora"]}
    values = {"base": base, "adapter": adapter, "train": train, "data": {"train": "rows.jsonl"}}
    if "held_out" in task:
        values["evaluate"] = dict.fromkeys(task["held_out"], "rows.jsonl") | task["evaluate"]
    return parse_recipe(values)


def plan_one(task: dict[str, Any]) -> dict[str, Any]:
    """What is predicted."""
    from lorakit.plan.libraries import BEFORE_TRAINING
    from lorakit.plan.plan import plan
    from lorakit.plan.rows import Sets

    examples = examples_of(task)
    held_out = {name: rows_of(lengths) for name, lengths in task.get("held_out", {}).items()}
    sets = Sets(examples, np.ones(len(examples)), evaluation=held_out)
    planned = plan(recipe_of(task), sets=sets)
    memory = planned.memory
    if held_out:
        peak = planned.peaks.phases["evaluation"] - BEFORE_TRAINING
        assert planned.peaks.evaluation is not None, "its sets were given"
        passes = planned.peaks.evaluation.peak
        return {"peak": peak, "load": planned.peaks.phases["loading"], "activations": passes}
    constant = memory.weights + memory.adapter + memory.gradients + memory.optimizer
    peak = planned.peaks.phases["training_step"] - BEFORE_TRAINING
    return {
        "peak": peak,
        "load": planned.peaks.phases["loading"],
        "activations": peak
        - constant
        - (planned.peaks.libraries - BEFORE_TRAINING)
        - planned.peaks.dense_copies,
    }


def train_one(task: dict[str, Any]) -> dict[str, Any]:
    """What was measured."""
    import transformers

    from lorakit.adapters.attach import attach_adapter
    from lorakit.train.loop import train
    from lorakit.train.memory import peak_bytes
    from lorakit.train.settings import LoopSettings

    transformers.logging.set_verbosity_error()
    recipe = recipe_of(task)
    memory = Memory()
    cpu = torch.device("cpu")
    model = load_weights_of(recipe)
    load = peak_bytes(cpu)
    attach_adapter(model, recipe.adapter)
    memory.forget()  # the load has a peak of its own
    train(model, examples_of(task), LoopSettings.from_section(recipe.train, packing=True))
    return {"load": load, "peak": peak_bytes(cpu)}


class NoText:
    """A tokenizer for a model whose tokens mean nothing."""

    eos_token_id = None

    def decode(self, *_: Any, **__: Any) -> str:
        return ""


def evaluate_one(task: dict[str, Any]) -> dict[str, Any]:
    """What was measured of losses, options and answers, base and tuned."""
    import transformers

    from lorakit.adapters.attach import attach_adapter
    from lorakit.adapters.attached import adapter_disabled
    from lorakit.data.questions import questions
    from lorakit.evaluate.likelihood import Request, likelihoods
    from lorakit.evaluate.token_distributions import both_distributions
    from lorakit.generate import SamplingSettings, generate
    from lorakit.train.heap import trim_heap
    from lorakit.train.loop import train
    from lorakit.train.settings import LoopSettings

    transformers.logging.set_verbosity_error()
    recipe = recipe_of(task)
    wanted = recipe.evaluate
    memory = Memory()
    after_imports = memory.now()
    model = load_weights_of(recipe)
    load = memory.peak() - after_imports
    attach_adapter(model, recipe.adapter)
    # The evaluation comes after training, which loads what computes.
    train(model, examples_of(task), LoopSettings.from_section(recipe.train, packing=True))
    trim_heap()
    memory.forget()
    how = {"token_budget": recipe.train.forward_tokens, "packed": True}
    for name, lengths in task["held_out"].items():
        examples = rows_of(lengths)
        both_distributions(model, examples, with_kl=name == "retention", **how)
        asked = questions(examples, range(len(examples)), ())
        if "choice" in wanted.metrics:
            likelihoods(model, [Request(q.prompt_ids, q.reference_ids) for q in asked], **how)
        if "exact_match" in wanted.metrics:
            settings = SamplingSettings(wanted.max_new_tokens, temperature=0.0, ignore_eos=True)
            prompts = [one.prompt_ids for one in asked[: wanted.max_generated]]
            no_text = cast(PreTrainedTokenizerBase, NoText())
            generate(model, no_text, prompts, settings, max_batch=wanted.max_batch)
            with adapter_disabled(model):
                generate(model, no_text, prompts, settings, max_batch=wanted.max_batch)
    return {"load": load, "peak": memory.peak() - after_imports}


def load_weights_of(recipe: Any) -> Any:
    """The base, without a tokenizer, of which there is none."""
    from lorakit.base.config import model_config, read_config
    from lorakit.base.load import load_weights

    folder = Path(recipe.base.model)
    model, _ = load_weights(
        folder,
        model_config(read_config(folder / "config.json")),
        quantization=recipe.base.quantization,
        double_quantization=recipe.base.double_quantization,
        block_size=recipe.base.block_size,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    return model


if __name__ == "__main__":
    main()
