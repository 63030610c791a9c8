"""Likelihoods against a plain forward pass, and the choices that rest on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attach import attach_adapter, attached
from lorakit.adapters.attached import adapter_disabled
from lorakit.base.load import load_base
from lorakit.data.prepare import Prepared, prepare_examples
from lorakit.data.reading import DataRules
from lorakit.errors import DataError
from lorakit.evaluate.before_after import compare_sets
from lorakit.evaluate.choice import choice_scores
from lorakit.evaluate.drawn import check_measurable, num_measured
from lorakit.evaluate.enough import too_few_findings
from lorakit.evaluate.likelihood import Request, likelihoods
from lorakit.evaluate.measures import Measures
from lorakit.recipe import LoraConfig
from tests import tiny

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
NAMES = ("choice", "choice_text", "choice_text_bytes", "choice_text_tokens")


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> Loaded:
    """With an adapter that changes what the model says."""
    model, tokenizer = load_base(tiny_folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4, lora_alpha=64))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in attached(model).parameters().items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.5, generator=generator)
    return model, tokenizer


def plain_logprobs(model: PreTrainedModel, context: list[int], said: list[int]) -> torch.Tensor:
    """float32 (len(said), V), by transformers' own forward pass of one sequence."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*context, *said]])).logits[0]
    return logits[len(context) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("packed", [True, False])
def test_likelihoods_are_those_of_a_forward_pass(loaded: Loaded, packed: bool) -> None:
    model, _ = loaded
    generator = np.random.default_rng(0)
    requests = [
        Request(generator.integers(5, 384, n).tolist(), generator.integers(5, 384, m).tolist())
        for n, m in [(1, 1), (7, 3), (30, 1), (2, 12), (60, 5)]
    ]
    best = plain_logprobs(model, list(requests[2].context), [5]).argmax().item()
    requests += [Request(requests[2].context, [token]) for token in (best, 6)]  # one input, thrice
    model.train()
    found = likelihoods(model, requests, token_budget=40, packed=packed)
    assert model.training
    model.eval()
    for request, one in zip(requests, found, strict=True):
        said = list(request.continuation)
        logprobs = plain_logprobs(model, list(request.context), said)
        wanted = logprobs[range(len(said)), said].sum().item()
        assert one.logprob == pytest.approx(wanted, abs=1e-4)
        assert one.is_greedy == (logprobs.argmax(-1).tolist() == said)
    assert [one.is_greedy for one in found[-2:]] == [True, False]
    assert likelihoods(model, [], token_budget=40, packed=packed) == []


def rows(count: int) -> list[dict[str, Any]]:
    texts = ["rest", "paracetamol 500 mg", "an x-ray of the chest", "caf\u00e9 au lait"]
    return [
        {
            "question": f"What helps against complaint {n}?",
            "options": [texts[(n + k) % 4] + f" {n % 3}" for k in range(4)],
            "answer": n * 7 % 4,
            "explanation": "It is well known.",
        }
        for n in range(count)
    ]


def prepared(given: list[dict[str, Any]], **rules: Any) -> Prepared:
    return prepare_examples([given], tiny.tokenizer(), DataRules(**rules))


def by_hand(loaded: Loaded, row: dict[str, Any], name: str) -> float:
    """The same by transformers' template and forward pass, option by option."""
    model, tokenizer = loaded
    letters = "ABCD"
    asked = row["question"]
    if name == "choice":
        asked += "".join(f"\n{key}. {o}" for key, o in zip(letters, row["options"], strict=True))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
    )
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    values = []
    for key, option in zip(letters, row["options"], strict=True):
        written = key if name == "choice" else option
        said = tokenizer(written, add_special_tokens=False).input_ids
        value = plain_logprobs(model, prompt, said)[range(len(said)), said].sum().item()
        lengths = {"choice_text_bytes": len(option.encode()), "choice_text_tokens": len(said)}
        values.append(value / lengths.get(name, 1))
    return float(np.argmax(values) == row["answer"])


def test_the_most_probable_option_is_chosen_for_base_and_tuned(loaded: Loaded) -> None:
    model, tokenizer = loaded
    given = rows(10)
    held_out = prepared(given)

    def refuse(*_: object) -> Any:
        raise AssertionError("nothing may be generated")

    result = compare_sets(
        model,
        tokenizer,
        {"in_domain": held_out},
        Measures(NAMES, primary="choice_text_bytes"),
        refuse,
        stop_ids=held_out.stop_ids,
        token_budget=512,
        packed=True,
    )["in_domain"]
    assert result.primary == "choice_text_bytes" and set(result.metrics) == {"loss", *NAMES}
    changed = 0
    for name in NAMES:
        tuned = [by_hand(loaded, row, name) for row in given]
        with adapter_disabled(model):
            base = [by_hand(loaded, row, name) for row in given]
        found = result.metrics[name]
        assert (found.base, found.tuned) == (np.mean(base), np.mean(tuned))
        assert found.examples == 10 and found.higher_is_better
        changed += base != tuned
    assert changed  # else the test could not tell base from tuned


def test_letters_that_begin_alike_are_told_apart(loaded: Loaded) -> None:
    """With labels 1 and 10 the first digit decides nothing."""
    model, tokenizer = loaded
    options = {str(n): f"rest for {n} days" for n in range(1, 12)}
    row = {"question": "How long?", "options": options, "answer": "10"}
    conversations = list(prepared([row, row]).conversations)
    scores = choice_scores(
        model,
        tokenizer,
        conversations,
        ["choice"],
        chat_template=tiny.CHATML,
        stop_ids=[4],
        token_budget=512,
        packed=True,
        description="test",
    )["choice"]
    with_point = {
        label: tokenizer(f"{label}.", add_special_tokens=False).input_ids[:2] for label in options
    }
    assert len({tuple(ids) for ids in with_point.values()}) == len(options)
    text = tokenizer.apply_chat_template(
        list(conversations[0].messages[:1]), tokenize=False, add_generation_prompt=True
    )
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    values = [
        plain_logprobs(model, prompt, ids)[range(2), ids].sum().item()
        for ids in with_point.values()
    ]
    wanted = float(list(options)[int(np.argmax(values))] == "10")
    assert scores.tuned.tolist() == [wanted, wanted]


def test_sets_without_options_are_told_before_training(loaded: Loaded) -> None:
    plain = prepared([{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(30)])
    measures = Measures(("choice",), primary="choice")
    with pytest.raises(DataError, match="chooses among options, but 0 of its 30 examples have any"):
        check_measurable({"in_domain": plain}, measures, plain.stop_ids)
    mixed = prepare_examples(
        [rows(5), [{"prompt": "What is asthma?", "completion": "A disease."}] * 20],
        tiny.tokenizer(),
        DataRules(),
    )
    assert num_measured({"in_domain": mixed}, "in_domain", measures, mixed.stop_ids) == 5
    (finding,) = too_few_findings({"in_domain": mixed}, ["in_domain"], measures, mixed.stop_ids)
    assert "5 of which would be" in finding.message
    result = compare_sets(
        *loaded,
        {"in_domain": mixed},
        Measures(("choice",)),
        lambda *_: [],
        stop_ids=mixed.stop_ids,
        token_budget=512,
        packed=True,
    )["in_domain"]
    assert result.metrics["choice"].examples == 5
    assert "choice: 5 of 25 examples have options" in result.notes
