"""Sampled answers: what is asked with which seeds, what is made of them, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit import tasks
from lorakit.adapters.attach import attach_adapter, attached
from lorakit.base.load import load_base
from lorakit.errors import DataError, RecipeError
from lorakit.evaluate.answers import Answer
from lorakit.evaluate.before_after import compare_sets
from lorakit.evaluate.drawn import check_measurable
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.paired_proportions import tango_interval
from lorakit.evaluate.pass_at_k import majority_at_k, pass_at_k
from lorakit.evaluate.result import SetResult
from lorakit.evaluate.sampling import Sampling, sample_seeds
from lorakit.evaluate.statistics import interval_of_shares
from lorakit.evaluate.summary import summary
from lorakit.recipe import EvaluateSection, LoraConfig
from lorakit.recipe.sections.sampling import SamplingSection
from tests import tiny
from tests.evaluate.test_before_after import Given, prepared

COUNT = 4
SAMPLING = Sampling(COUNT, (1, 2), (4,), ("math", "regex"), ("math",))
RIGHT_OR_WRONG = [n for n in tasks.names() if tasks.scorer(n).IS_RIGHT_OR_WRONG]
FINAL_ANSWER = [n for n in tasks.names() if tasks.scorer(n).HAS_FINAL_ANSWER]


class Pretender:
    """Right by every second seed when the adapter is on, else by every fourth; wrong answers are
    all the same to some questions and all others to others."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.tokenizer = model, tiny.tokenizer()
        self.asked: list[tuple[list[str], list[int]]] = []

    def greedily(self, prompts: Sequence[Sequence[int]], description: str) -> Sequence[Answer]:
        return [Given("#### -1") for _ in prompts]

    def sampled(
        self, prompts: Sequence[Sequence[int]], description: str, *, seeds: Sequence[int]
    ) -> Sequence[Answer]:
        texts = [self.tokenizer.decode(list(prompt)) for prompt in prompts]
        self.asked.append((texts, list(seeds)))
        on = attached(self.model).switch.on
        given = []
        for text, seed in zip(texts, seeds, strict=True):
            number = int(text.split("twice ")[1].split("?")[0])
            right = seed % (2 if on else 4) == 0
            wrong = "#### -7" if number % 2 else f"it comes to {seed % 1000 + 5000}"
            given.append(Given(f"#### {2 * number}" if right else wrong))
        return given


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = load_base(tiny_folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    return model, tokenizer


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"What is twice {n}?", "completion": f"{2 * n}"} for n in range(count)]


def compare(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], pretender: Pretender, **changes: Any
) -> SetResult:
    values = {"metrics": ("math", "regex"), "primary": "math/pass@1", "sampling": SAMPLING}
    scoring = tasks.ScoringOptions(regex="####")
    measures = Measures(**(values | changes), scoring=scoring, seed=5)
    held_out = prepared(rows(40))
    return compare_sets(
        *loaded,
        {"in_domain": held_out},
        measures,
        pretender.greedily,
        sampler=pretender.sampled,
        stop_ids=held_out.stop_ids,
        token_budget=512,
        packed=True,
    )["in_domain"]


def test_what_is_told_is_what_the_kept_answers_are_worth(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    pretender = Pretender(loaded[0])
    result = compare(loaded, pretender)
    assert (result.primary, result.verdict) == ("math/pass@1", "better")
    names = ("math/pass@1", "math/pass@2", "math/majority@4", "regex/pass@1", "regex/pass@2")
    assert set(result.metrics) == {"loss", "math", "regex", *names}
    lines = [answered.to_json("in_domain") for answered in result.answered]
    lines = json.loads(json.dumps(lines, allow_nan=False))
    assert len(lines) == 40
    for who in ("base", "tuned"):
        values: dict[str, list[float]] = {name: [] for name in names}
        for line in lines:
            samples = line["samples"][who]
            texts = [one["text"] for one in samples]
            assert len(texts) == COUNT
            for scorer in ("math", "regex"):
                scores = [one["scores"][scorer] for one in samples]
                options = tasks.ScoringOptions(regex="####")
                references = [line["reference"]] * COUNT
                again = tasks.scorer(scorer).scores(texts, references, options)
                assert again.tolist() == scores
                for k in (1, 2):
                    values[f"{scorer}/pass@{k}"].append(pass_at_k(COUNT, int(sum(scores)), k))
            votes = tasks.voter("math").same_answers(texts)
            right = [one["scores"]["math"] for one in samples]
            values["math/majority@4"].append(majority_at_k(right, votes, 4))
        for name in names:
            one = result.metrics[name].to_json()
            found = [line["scores"][name][who] for line in lines]
            assert found == pytest.approx(values[name])
            assert one[who] == pytest.approx(sum(found) / 40)
            assert one[f"{who}_interval"] == list(interval_of_shares(np.array(found)))
            low, high = one[f"{who}_interval"]
            assert low < one[who] < high or one[who] in (0, 1)
    assert "base_interval" not in result.metrics["math"].to_json()
    shown = "\n".join(summary({"in_domain": result}))
    low, high = result.metrics["math/pass@1"].intervals[1]  # type: ignore[index]
    assert f"({low:.3f} to {high:.3f})" in shown and "in_domain: better by math/pass@1" in shown


def test_seeds_are_of_the_question_and_the_same_for_both(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    """Whatever else is asked: which questions there are, how many answers each has."""
    pretender = Pretender(loaded[0])
    compare(loaded, pretender)
    compare(loaded, pretender, max_generated=15)
    (tuned, base), (fewer, _) = pretender.asked[:2], pretender.asked[2:]
    assert tuned == base and len(set(tuned[1])) == 40 * COUNT
    by_question = {text: tuned[1][place * COUNT :][:COUNT] for place, text in _first_of(tuned[0])}
    for place, text in _first_of(fewer[0]):
        assert fewer[1][place * COUNT :][:COUNT] == by_question[text]
    usual = sample_seeds([3, 8], 4, seed=1, name="in_domain")
    assert sample_seeds([8], 2, seed=1, name="in_domain") == usual[4:6]
    others = [
        *sample_seeds([3, 8], 4, seed=2, name="in_domain"),
        *sample_seeds([3, 8], 4, seed=1, name="retention"),
    ]
    assert len({*usual, *others}) == 24


def _first_of(texts: list[str]) -> list[tuple[int, str]]:
    return list(enumerate(texts[::COUNT]))


def test_a_model_that_is_its_base_differs_by_nothing(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    pretender = Pretender(loaded[0])

    class Same(Pretender):
        def sampled(self, prompts: Any, description: str, *, seeds: Sequence[int]) -> Any:
            return [Given(f"#### {seed % 3}", "length") for seed in seeds]

    result = compare(loaded, Same(loaded[0]))
    assert result.verdict == "no difference"
    shares, right_or_wrong = (result.metrics[f"math/{name}"] for name in ("pass@1", "majority@4"))
    assert (shares.difference, shares.interval) == (0, (0, 0))
    assert right_or_wrong.difference == 0
    # That forty agree does not show that none of more would differ.
    assert right_or_wrong.interval == tango_interval(0, 0, 40)
    assert any("base (sampled) did not stop" in note for note in result.notes)
    assert not any("(sampled)" in note for note in compare(loaded, pretender).notes)


def test_a_set_without_questions_cannot_rest_on_them() -> None:
    texts = prepared([{"text": f"Blood pressure was {n}/80 in clinic today."} for n in range(25)])
    measures = Measures(("math",), primary="math/pass@1", sampling=SAMPLING)
    with pytest.raises(DataError, match="math/pass@1, which scores answers"):
        check_measurable({"in_domain": texts}, measures, texts.stop_ids)


def section(metrics: Sequence[str], **sampling: Any) -> EvaluateSection:
    return EvaluateSection(
        metrics=["loss", *metrics], regex="x", sampling=SamplingSection(**sampling)
    )


@pytest.mark.parametrize("name", tasks.names())
def test_every_scorer_is_measured_or_refused(name: str) -> None:
    """By what it says of itself: right or wrong for pass@k, final answers for majority@k."""
    for named in (None, [name]):
        one = SamplingSection(pass_at=[1, 3], majority_at=[], scorers=named)
        both = SamplingSection(pass_at=[1], majority_at=[5], scorers=named)
        if name not in RIGHT_OR_WRONG:
            with pytest.raises(RecipeError, match=r"says right or wrong.*possible: code, exact_m"):
                Sampling.from_section(one, ["loss", name])
            continue
        found = Sampling.from_section(one, ["loss", name])
        assert found.metrics == (f"{name}/pass@1", f"{name}/pass@3")
        if name not in FINAL_ANSWER:
            with pytest.raises(RecipeError, match=r"final answers.*possible: exact_match, math"):
                Sampling.from_section(both, ["loss", name])
            with pytest.raises(RecipeError, match="knows no final answer"):
                tasks.voter(name)
            continue
        found = Sampling.from_section(both, ["loss", name])
        assert found.metrics == (f"{name}/pass@1", f"{name}/majority@5")


def test_scorers_that_fit_are_taken_where_none_is_named() -> None:
    wanted = section(["math", "rouge_l", "regex", "math"], pass_at=[2], majority_at=[3])
    measures = Measures.from_section(wanted, seed=0)
    assert measures.sampled == ("math/pass@2", "math/majority@3", "regex/pass@2")
    assert measures.scorers == ["math", "rouge_l", "regex", "math"]
    assert measures.answered[-3:] == list(measures.sampled)
    with pytest.raises(RecipeError, match=r"names 'math/pass@3'; possible: .*math/pass@2"):
        Measures(("math",), primary="math/pass@3", sampling=measures.sampling)
    with pytest.raises(RecipeError, match="names 'math/pass@1'"):
        Measures(("math",), primary="math/pass@1")
