"""Predicted against measured peak memory of the final evaluation on a CPU.

    python benchmarks/plan_evaluation.py
    python benchmarks/plan_evaluation.py --only llama_words

Losses of long rows, KL over a large vocabulary, options, answers to many prompts: each after a
short training, in a process of its own (see `plan_runs.py`). Ends with 1 when a prediction is off
by more than 10 %.
"""

from __future__ import annotations

import re
from typing import Any, cast

from contest import Memory, did_the_task
from plan_runs import (
    conclude,
    examples_of,
    load_weights_of,
    measure_all,
    recipe_of,
    rows_of,
    save,
    sets_of,
)

# Rows of each set; sizes over those of `plan_runs.COMMON`.
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


def main() -> None:
    """Measure every configuration, print and write the table."""
    if did_the_task(answer):
        return
    rows = measure_all(__file__, EVALUATIONS, __doc__)
    heading = "Peak memory of the evaluation, predicted and measured"
    conclude(rows, EVALUATIONS, of="the evaluation", heading=heading, held=("peak",))


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task, in the process that was started for it."""
    return {"save": save, "plan": plan_one, "evaluate": evaluate_one}[task["do"]](task)


def plan_one(task: dict[str, Any]) -> dict[str, Any]:
    """What is predicted."""
    from lorakit.plan.plan import plan

    peaks = plan(recipe_of(task), sets=sets_of(task)).peaks
    assert peaks.evaluation is not None
    return {
        # Neither all of lorakit's rooms nor a tokenizer are in a process of this script.
        "peak": peaks.phases["evaluation"] - peaks.held_from_the_start,
        "load": peaks.phases["loading"] - peaks.held_from_the_start,
        "activations": peaks.evaluation.peak,
    }


class NoText:
    """A tokenizer for a model whose tokens mean nothing."""

    eos_token_id = None

    def decode(self, *_: Any, **__: Any) -> str:
        return ""


def evaluate_one(task: dict[str, Any]) -> dict[str, Any]:
    """What was measured of losses, options and answers, base and tuned."""
    import transformers
    from transformers import PreTrainedTokenizerBase

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


if __name__ == "__main__":
    main()
