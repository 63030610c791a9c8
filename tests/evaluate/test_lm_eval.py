"""Lm-eval's tasks on the model in memory: the numbers of its own HFLM, paired and told."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lorakit.adapters.attach import attach_adapter, attached
from lorakit.adapters.attached import adapter_disabled
from lorakit.base.load import load_base
from lorakit.errors import ModelError, RecipeError, RunError
from lorakit.evaluate import lm_eval_tasks
from lorakit.evaluate.correction import corrected
from lorakit.evaluate.lm_eval_comparison import compared
from lorakit.evaluate.lm_eval_tasks import check_lm_eval, lm_eval_results
from lorakit.recipe import LoraConfig
from lorakit.recipe.sections.lm_eval import LmEvalSection
from lorakit.ship.merge import merge
from tests import tiny

CHOICE = """
task: own_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{q}}}}\\nAnswer: "
doc_to_choice: options
doc_to_target: right
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
TEXT = """
task: own_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""
ANSWER = """
task: own_answer
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: text
generation_kwargs: {{until: ["e", "\\n\\n"], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder of three tasks on one small file."""
    pytest.importorskip(
        "lm_eval", reason="lm-eval is not installed (pip install 'lorakit[lm-eval]')"
    )
    options = ["take rest", "a tablet twice daily", "an x-ray"]
    documents = [
        {
            "q": f"What helps against complaint {n}?",
            "options": [f"{options[(n + k) % 3]} {n}" for k in range(3)],
            "right": n % 3,
            "text": f"The patient was seen in clinic {n} times. " * (1 + 9 * (n % 3)),
        }
        for n in range(24)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    for name, text in (("choice", CHOICE), ("text", TEXT), ("answer", ANSWER)):
        (tmp_path / f"{name}.yaml").write_text(text.format(data=data))
    return tmp_path


@pytest.fixture(autouse=True)
def _datasets_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    yield
    lm_eval_tasks._task_manager.cache_clear()


def tuned_model(folder: Path) -> tuple[PreTrainedModel, Any]:
    model, tokenizer = load_base(folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4, lora_alpha=64))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in attached(model).parameters().items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.4, generator=generator)
    return model, tokenizer


def one_by_one(model: PreTrainedModel, tokenizer: Any, section: LmEvalSection) -> Iterator[Any]:
    return lm_eval_results(
        model,
        tokenizer,
        section,
        chat_template=tiny.CHATML,
        stop_ids=(),
        token_budget=512,
        packed=True,
        seed=0,
    )


def run(model: PreTrainedModel, tokenizer: Any, section: LmEvalSection) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for task in one_by_one(model, tokenizer, section):
        assert not isinstance(task, RunError), task
        found |= task
    return found


@pytest.mark.filterwarnings("default")  # other people's code
def test_base_is_what_lm_eval_itself_measures_and_tuned_is_paired(
    tasks: Path, tiny_folder: Path
) -> None:
    model, tokenizer = tuned_model(tiny_folder)
    names = ["own_choice", "own_text", "own_answer"]
    section = LmEvalSection(tasks=names, include_path=str(tasks), num_fewshot=2)
    results = run(model, tokenizer, section)
    assert list(results) == [f"lm_eval/{name}" for name in names]

    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    merged = merge(model)
    merged.generation_config.eos_token_id = 4
    for who, plain in (
        ("base", AutoModelForCausalLM.from_pretrained(tiny_folder).eval()),
        ("tuned", merged),
    ):
        lm = HFLM(
            pretrained=plain, tokenizer=AutoTokenizer.from_pretrained(tiny_folder), batch_size=4
        )
        theirs = simple_evaluate(
            lm,
            tasks=names,
            task_manager=lm_eval_tasks._task_manager(str(tasks), tuple(names)),
            num_fewshot=2,
            bootstrap_iters=10,
        )["results"]
        for task, result in results.items():
            reported = theirs[task.removeprefix("lm_eval/")]
            for metric, change in result.metrics.items():
                ours = vars(change)[who]
                assert ours == pytest.approx(reported[f"{metric},none"], rel=1e-4), (who, metric)
                error = reported[f"{metric}_stderr,none"]
                assert change.stderr is not None
                found = change.stderr[("base", "tuned").index(who)]
                if error == "N/A":
                    assert found is None
                else:
                    assert found == pytest.approx(error, rel=1e-4)

    choice = results["lm_eval/own_choice"]
    assert list(choice.metrics) == ["acc", "acc_norm"] and choice.primary == "acc"
    assert (choice.examples, choice.available) == (24, 24)
    assert "2 examples in the prompt" in choice.notes[0]
    assert choice.metrics["acc"].is_finite
    text = results["lm_eval/own_text"].metrics["word_perplexity"]
    assert not text.higher_is_better and text.is_finite and text.base != text.tuned
    json.dumps([one.to_json() for one in results.values()], allow_nan=False)


@pytest.mark.filterwarnings("default")
def test_the_chat_template_and_the_limit_are_those_asked_for(
    tasks: Path, tiny_folder: Path
) -> None:
    from lorakit.evaluate.lm_eval_model import InMemoryLM

    model, tokenizer = tuned_model(tiny_folder)
    section = LmEvalSection(
        tasks=["own_choice"], include_path=str(tasks), limit=5, apply_chat_template=True
    )
    result = run(model, tokenizer, section)["lm_eval/own_choice"]
    assert (result.examples, result.verdict) == (5, "no difference")
    assert "the first 5 of 24 documents" in result.notes
    assert "too few examples to tell" in result.notes[0]
    lm = InMemoryLM(
        model,
        tokenizer,
        chat_template=None,
        stop_ids=(),
        context=64,
        token_budget=512,
        packed=True,
        description="test",
    )
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So"}]
    assert lm.apply_chat_template(said[:1]) == tokenizer.apply_chat_template(
        said[:1], tokenize=False, add_generation_prompt=True
    )
    assert lm.apply_chat_template(said, add_generation_prompt=False).endswith("assistant\nSo")
    with adapter_disabled(model):
        ((alone, _),) = lm._loglikelihood_tokens([(None, [7] * 100, [8, 9])])
        ((cut, _),) = lm._loglikelihood_tokens([(None, [7] * 63, [8, 9])])
    assert alone == pytest.approx(cut)  # the context is cut on the left


@pytest.mark.filterwarnings("default")
def test_a_task_whose_own_code_fails_is_named_and_the_others_and_chance_go_on(
    tasks: Path, tiny_folder: Path
) -> None:
    (tasks / "broken.py").write_text("def text(doc):\n    return 1 / 0\n")
    broken = CHOICE.replace("own_choice", "own_broken").format(data=tasks / "data.jsonl")
    question = 'doc_to_text: "Question: {{q}}\\nAnswer: "'
    assert question in broken
    (tasks / "broken.yaml").write_text(
        broken.replace(question, "doc_to_text: !function broken.text")
    )
    model, tokenizer = tuned_model(tiny_folder)
    names = ["own_choice", "own_broken", "own_text"]
    section = LmEvalSection(tasks=names, include_path=str(tasks), limit=2)
    random.seed(7)
    np.random.seed(7)
    expected = random.Random(7).random(), np.random.RandomState(7).random()
    choice, failure, text = one_by_one(model, tokenizer, section)
    assert set(choice) == {"lm_eval/own_choice"} and set(text) == {"lm_eval/own_text"}
    assert isinstance(failure, RunError)
    assert "could not run own_broken: division by zero" in str(failure)
    assert (random.random(), np.random.random()) == expected


def test_a_tokenizer_without_start_and_end_is_refused(tasks: Path, tiny_folder: Path) -> None:
    from lorakit.evaluate.lm_eval_model import InMemoryLM

    model, tokenizer = load_base(tiny_folder, device="cpu")
    tokenizer.bos_token = tokenizer.eos_token = None
    lm = InMemoryLM(
        model,
        tokenizer,
        chat_template=tiny.CHATML,
        stop_ids=(),
        context=64,
        token_budget=512,
        packed=True,
        description="test",
    )
    with pytest.raises(ModelError, match="has no end token"):
        lm.tok_encode("So")


def test_what_is_missing_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = LmEvalSection(tasks=["own_choice"], include_path=str(tmp_path / "nowhere"))
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"lm-eval is not installed; pip install 'lorakit\[lm-"):
        check_lm_eval(section)
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda name: name)
    with pytest.raises(RecipeError, match="nowhere' is no folder"):
        check_lm_eval(section)


def report(values: list[float], mean: float, stderr: object) -> dict[str, Any]:
    """What lm-eval hands back for one task of one metric, `f1`."""
    return {
        "results": {"t": {"alias": "t", "f1,strict": mean, "f1_stderr,strict": stderr}},
        "samples": {
            "t": [{"doc_id": n, "filter": "strict", "f1": value} for n, value in enumerate(values)]
        },
        "n-samples": {"t": {"original": 60, "effective": len(values)}},
        "n-shot": {"t": 0},
        "versions": {"t": 1},
        "higher_is_better": {"t": {"f1": True}},
    }


def test_intervals_are_paired_where_lm_eval_reports_a_mean_and_else_from_standard_errors() -> None:
    base, tuned = [0.0, 1.0] * 20, [0.5, 1.0] * 20
    paired = compared(report(base, 0.5, 0.08), report(tuned, 0.75, 0.04), "t", 0)
    change = paired.metrics["f1, strict"]
    assert paired.verdict == "better" and change.difference == 0.25
    assert change.interval[1] - change.interval[0] < 0.2  # the standard errors alone: 0.35
    assert change.to_json()["stderr"] == [0.08, 0.04]

    corpus = compared(report(base, 0.6, 0.08), report(tuned, 0.7, 0.06), "t", 0)
    low, high = corpus.metrics["f1, strict"].interval
    half = 1.96 * math.hypot(0.08, 0.06)
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-4)
    assert corpus.verdict == "no difference"

    unknown = compared(report(base, 0.6, "N/A"), report(tuned, 0.9, "N/A"), "t", 0)
    assert unknown.verdict == "no difference"
    assert "no interval is known for f1, strict" in unknown.notes
    assert unknown.to_json()["metrics"]["f1, strict"]["interval"] == [None, None]  # type: ignore[index]
    assert np.isnan(unknown.metrics["f1, strict"].interval[0])


@pytest.mark.parametrize(
    ("base", "tuned", "means", "errors"),
    [
        ([0.0, 1.0] * 20, [0.5, 1.0] * 20, (0.5, 0.75), (0.08, 0.04)),  # a number per document
        ([0.0] * 40, [1.0] * 20 + [0.0] * 20, (0.0, 0.5), (0.0, 0.08)),  # yes or no
        ([0.0, 1.0] * 20, [0.5, 1.0] * 20, (0.6, 0.9), (0.08, 0.06)),  # of a corpus
    ],
)
def test_verdicts_on_tasks_are_corrected_with_the_others(
    base: list[float],
    tuned: list[float],
    means: tuple[float, float],
    errors: tuple[float, float],
) -> None:
    better = compared(report(base, means[0], errors[0]), report(tuned, means[1], errors[1]), "t", 0)
    same = compared(report(base, means[0], errors[0]), report(base, means[0], errors[0]), "t", 0)
    assert better.verdict == "better" and same.verdict == "no difference"
    assert better.p_value is not None and better.p_value < 0.05
    assert same.p_value == pytest.approx(1.0)
    told = corrected({"better": better} | {f"same{n}": same for n in range(3)})
    assert told["better"].num_tests == 4
    assert told["better"].p_value_corrected == pytest.approx(4 * better.p_value)
    yes_or_no = {*base, *tuned} <= {0.0, 1.0}
    assert (better.metrics["f1, strict"].mcnemar is not None) == yes_or_no
