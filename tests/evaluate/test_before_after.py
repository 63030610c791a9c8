"""Questions, answers and what is said about them, on a tiny model with pretended answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lorakit
from lorakit.adapters.attach import attach_adapter, attached
from lorakit.base.load import load_base
from lorakit.data.examples import Example, examples_in_memory
from lorakit.data.prepare import Prepared, prepare_examples
from lorakit.data.questions import question
from lorakit.data.reading import DataRules
from lorakit.errors import DataError, RecipeError
from lorakit.evaluate.answers import Answer
from lorakit.evaluate.before_after import compare_sets
from lorakit.evaluate.drawn import check_measurable, draw, drawn_questions, sample
from lorakit.evaluate.forgotten import most_forgotten
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.result import SetResult
from lorakit.evaluate.summary import summary
from lorakit.recipe import EvaluateSection, LoraConfig
from lorakit.tasks import ScoringOptions
from lorakit.train.losses import ExampleLosses
from tests import tiny


@dataclass(frozen=True)
class Given:
    text: str
    finish_reason: str = "stop"


class Pretender:
    """Answers with the references when the adapter is on, with the same words to all when not."""

    def __init__(self, model: PreTrainedModel, references: dict[str, str]) -> None:
        self.model = model
        self.references = references
        self.tokenizer = tiny.tokenizer()
        self.asked: list[list[str]] = []

    def __call__(self, prompts: Sequence[Sequence[int]], description: str) -> Sequence[Answer]:
        texts = [self.tokenizer.decode(list(prompt)) for prompt in prompts]
        self.asked.append(texts)
        if not attached(self.model).switch.on:
            return [Given("take rest", "length") for _ in texts]
        return [
            Given(next(answer for key, answer in self.references.items() if f"{key}?" in text))
            for text in texts
        ]


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = load_base(tiny_folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    return model, tokenizer


def rows(count: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    answers = {f"complaint {n}": f"Take {n} tablets and {n * 7 % 11} pills." for n in range(count)}
    asked = [{"prompt": f"What helps against {k}?", "completion": a} for k, a in answers.items()]
    return asked, answers


def prepared(given: list[dict[str, Any]], **rules: Any) -> Prepared:
    return prepare_examples([given], tiny.tokenizer(), DataRules(**rules))


def compare(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    sets: dict[str, Prepared],
    measures: Measures,
    answerer: Any,
) -> dict[str, SetResult]:
    stop_ids = next(iter(sets.values())).stop_ids
    return compare_sets(
        *loaded, sets, measures, answerer, stop_ids=stop_ids, token_budget=512, packed=True
    )


def test_base_and_tuned_are_asked_the_same_and_scored(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    given, references = rows(30)
    pretender = Pretender(loaded[0], references)
    scorers = ("exact_match", "token_f1", "rouge_l", "content")
    measures = Measures(("loss", "perplexity", *scorers), primary={"in_domain": "content"})
    result = compare(loaded, {"in_domain": prepared(given)}, measures, pretender)["in_domain"]
    assert len(pretender.asked) == 2 and pretender.asked[0] == pretender.asked[1]
    assert pretender.asked[0][3] == (
        "<|im_start|>user\nWhat helps against complaint 3?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (result.primary, result.verdict) == ("content", "better")
    assert set(result.metrics) == {"loss", "perplexity", *scorers}
    assert result.metrics["exact_match"].tuned == 1 > result.metrics["exact_match"].base == 0
    assert abs(result.metrics["content"].base) < 1e-12
    assert "base did not stop within evaluate.max_new_tokens in 30 of 30 answers" in result.notes
    assert result.to_json()["truncated"] == {"answers": 30, "base": 30, "tuned": 0}
    line = result.answered[3].to_json("in_domain")
    assert line["reference"] == line["tuned"] == references["complaint 3"]
    assert line["base"] == "take rest"
    assert (line["set"], line["index"]) == ("in_domain", 3)
    assert "What helps against complaint 3?" in str(line["prompt"])
    assert line["scores"]["exact_match"] == {"base": 0.0, "tuned": 1.0}
    json.dumps([line, result.to_json()], allow_nan=False)


def test_what_is_wrong_with_references_is_told_once(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], caplog: pytest.LogCaptureFixture
) -> None:
    """Base and tuned are held to the same ones."""
    answers = {f"complaint {n}": f"Take {'some ' * n}tablets." for n in range(20)}
    asked = [{"prompt": f"What helps against {k}?", "completion": a} for k, a in answers.items()]
    measures = Measures(("math",), primary="math")
    compare(loaded, {"in_domain": prepared(asked)}, measures, Pretender(loaded[0], answers))
    assert caplog.text.count("20 of 20 references hold neither a formula nor a number") == 1


def test_a_run_on_shuffled_answers_is_no_better_on_content(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    """It writes as the references do, about others: its words overlap more, it knows no more."""
    given, references = rows(60)
    keys = list(references)
    others = dict(zip(keys, np.roll(list(references.values()), 1).tolist(), strict=True))
    measures = Measures(("token_f1", "content"), primary="content")
    held_out = {"in_domain": prepared(given)}
    result = compare(loaded, held_out, measures, Pretender(loaded[0], others))["in_domain"]
    assert result.verdict != "better"
    assert result.metrics["token_f1"].interval[0] > 0


def test_samples_are_seeded_and_answered_ones_are_among_the_measured(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    given, references = rows(40)
    sets = {"in_domain": prepared(given)}
    pretender = Pretender(loaded[0], references)

    def indices(seed: int) -> list[int]:
        measures = Measures(("token_f1",), max_examples=20, max_generated=8, seed=seed)
        result = compare(loaded, sets, measures, pretender)["in_domain"]
        assert (result.examples, result.available) == (20, 40)
        assert result.metrics["token_f1"].examples == 8
        drawn = draw(40, 20, seed=seed).tolist()
        chosen = [answered.index for answered in result.answered]
        assert set(chosen) <= set(drawn) and chosen == sorted(chosen)
        for answered in result.answered:
            assert answered.reference == references[f"complaint {answered.index}"]
        return chosen

    assert indices(0) == indices(0) != indices(1)


def test_plain_text_is_measured_and_not_answered(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    def refuse(prompts: Sequence[Sequence[int]], description: str) -> Sequence[Answer]:
        raise AssertionError("nothing may be asked")

    texts = prepared([{"text": f"Blood pressure was {n}/80 in clinic today."} for n in range(25)])
    sets = {"retention": texts}
    result = compare(loaded, sets, Measures(("token_f1",)), refuse)["retention"]
    assert set(result.metrics) == {"loss", "kl"} and result.answered == ()
    assert "0 of 25 examples have a prompt, so nothing was answered" in result.notes
    wanted = Measures(("token_f1",), primary={"retention": "token_f1"})
    with pytest.raises(DataError, match=r"evaluate.primary: \{retention: loss\}"):
        check_measurable(sets, wanted, texts.stop_ids)
    check_measurable({"in_domain": texts}, wanted, texts.stop_ids)


def test_rows_without_a_prompt_are_left_out_of_the_answers(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    given, references = rows(5)
    mixed = prepare_examples(
        [[{"text": "Take one tablet."}] * 3, given], tiny.tokenizer(), DataRules()
    )
    pretender = Pretender(loaded[0], references)
    result = compare(loaded, {"in_domain": mixed}, Measures(("token_f1",)), pretender)["in_domain"]
    assert result.examples == 8 and [one.index for one in result.answered] == [3, 4, 5, 6, 7]
    assert "3 of 8 examples have no prompt and were not answered" in result.notes


def test_a_model_whose_losses_are_no_numbers_is_worse_and_not_asked(tiny_folder: Path) -> None:
    model, tokenizer = load_base(tiny_folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    for parameter in attached(model).parameters().values():
        parameter.data.fill_(float("nan"))
    given, references = rows(25)
    measures = Measures(("token_f1",), primary="token_f1")
    sets = {"in_domain": prepared(given)}
    result = compare((model, tokenizer), sets, measures, Pretender(model, references))["in_domain"]
    assert (result.primary, result.verdict) == ("loss", "worse")
    assert "its losses are no numbers: nothing was answered" in result.notes
    assert "what was forgotten: not known" in "\n".join(summary({"retention": result}))
    json.dumps(result.to_json(), allow_nan=False)


def test_what_was_forgotten_is_named(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    given, references = rows(30)
    sets = {"retention": prepared(given, system="Answer as a careful doctor would do.")}
    untouched = compare(loaded, sets, Measures(), Pretender(loaded[0], references))
    assert untouched["retention"].forgotten == ()
    assert "what was forgotten: nothing" in "\n".join(summary(untouched))

    indices = np.arange(5, 30)
    weight = np.arange(1.0, 26.0)
    rises = np.linspace(-1, 0.5, 25)
    rises[7] = 2.0
    rises[8] = np.nan
    base = ExampleLosses(weight * 1.5, weight)
    tuned = ExampleLosses(weight * (1.5 + rises), weight)
    held_out = sets["retention"]
    worst = most_forgotten(
        loaded[1],
        held_out.examples,
        held_out.rows,
        indices,
        base,
        tuned,
        stop_ids=held_out.stop_ids,
    )
    assert [one.index for one in worst] == [12, 29, 28, 27, 26]
    assert (worst[0].where, worst[0].base, worst[0].tuned) == ("memory:13", 1.5, 3.5)
    assert worst[0].text == "user What helps against complaint 12?"
    shown = "\n".join(summary({"retention": replace(untouched["retention"], forgotten=worst)}))
    assert "the retention examples whose loss rose most" in shown
    assert "1.500 -> 3.500  'user What helps against complaint 12?' (memory:13)" in shown
    assert len(shown.splitlines()) < 24
    sinking = ExampleLosses(weight, weight)
    assert not most_forgotten(
        loaded[1],
        held_out.examples,
        held_out.rows,
        indices,
        base,
        sinking,
        stop_ids=held_out.stop_ids,
    )


STOP = 4


@pytest.mark.parametrize(
    ("weights", "prompt", "reference"),
    [
        ([0, 0, 0, 1, 1, 1], [9, 8, 7], [6, 5]),  # the stop token is no part of the answer
        ([0, 1, 1, 0, 1, 1], [9, 8, 7, 6], [5]),  # the last of two turns
        ([0, 0, 0.5, 2, 1, 1], [9, 8], [7, 6, 5]),  # weights of their own
        ([0, 1, 1, 1, 1, 1], None, None),  # plain text
        ([0, 0, 1, 1, 1, 0], [9, 8], [7, 6, 5]),  # no stop token trained
    ],
)
def test_prompt_and_reference(
    weights: list[float], prompt: list[int] | None, reference: list[int] | None
) -> None:
    ids = np.array([9, 8, 7, 6, 5, STOP], np.int32)
    asked = question(Example(ids, np.array(weights, np.float32)), 0, [STOP, 3])
    if prompt is None:
        assert asked is None
    else:
        assert asked is not None
        assert (asked.prompt_ids, asked.reference_ids) == (prompt, reference)


def test_what_follows_the_stop_token_is_no_part_of_the_reference() -> None:
    """Templates with generation markers may train the line break behind it."""
    ids = np.array([9, 8, 7, 3, 6, STOP, 3], np.int32)
    weights = np.array([0, 0, 1, 1, 1, 1, 0], np.float32)
    asked = question(Example(ids, weights), 0, [STOP])
    assert asked is not None and asked.reference_ids == [7, 3, 6]


def test_a_sample_is_seeded_in_order_and_from_everywhere() -> None:
    weights = np.array([0, 1], dtype=np.float32)
    examples = examples_in_memory(
        [Example(np.array([1, n], dtype=np.int32), weights) for n in range(200)]
    )
    assert sample(examples, draw(200, None, seed=0)) is examples
    assert sample(examples, draw(200, 200, seed=0)) is examples
    drawn = [sample(examples, draw(200, 30, seed=seed)) for seed in (0, 0, 1)]
    ids = [[int(one[index].input_ids[1]) for index in range(len(one))] for one in drawn]
    assert ids[0] == ids[1] == sorted(set(ids[0]))
    assert ids[0] != ids[2]
    assert max(ids[0]) >= 100  # not the first rows: all of them in one half has odds of 2^-30
    assert drawn[0].fingerprint == drawn[1].fingerprint != drawn[2].fingerprint
    assert len(drawn[0].lengths) == len(drawn[0].trained_lengths) == 30


def test_what_a_recipe_asks_for(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    section = EvaluateSection(
        metrics=["regex", "json_schema"],
        regex="x",
        json_schema=str(schema),
        primary={"retention": "regex"},
        max_generated=7,
    )
    measures = Measures.from_section(section, seed=3)
    assert measures.scoring == ScoringOptions("x", {"type": "object"}, 3)
    assert measures.primary_of("retention") == "regex"
    assert measures.primary_of("in_domain") == "loss"
    assert (measures.scorers, measures.max_generated) == (["regex", "json_schema"], 7)
    schema.write_text("{")
    with pytest.raises(RecipeError, match="cannot be read"):
        Measures.from_section(section, seed=3)
    with pytest.raises(RecipeError, match="names 'bleu'; possible: loss, perplexity, kl, choice"):
        Measures(("bleu",))
    with pytest.raises(RecipeError, match="not among"):
        Measures(("loss",), primary="content")


@pytest.mark.slow
def test_a_real_over_trained_run_is_called_out(shared_data: Path, tmp_path: Path) -> None:
    """A model of children's stories, driven hard into medical answers, forgets its stories."""
    names = ["Tom", "Lily", "Ben", "Mia", "Sam", "Anna"]
    things = ["ball", "dog", "cake", "tree", "boat", "bird"]
    stories = [
        f"Once upon a time, there was a little {'boy' if n % 2 else 'girl'} named {name}. {name} "
        f"had a big red {thing}. One day, {name} went to the park to play with the {thing}."
        for n, name in enumerate(names)
        for thing in things
    ]
    retention = tmp_path / "stories.jsonl"
    retention.write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    medquad = shared_data / "medquad"
    recipe = lorakit.parse_recipe(
        {
            "base": {"model": str(shared_data / "models" / "stories260K"), "dtype": "float32"},
            "data": {
                "train": str(medquad / "small_train_2000.jsonl"),
                "max_length": 512,
                "max_dropped": 0.9,
            },
            "train": {"max_steps": 60, "learning_rate": 1e-2},
            "evaluate": {
                "in_domain": str(medquad / "small_test_300.jsonl"),
                "retention": str(retention),
                "max_examples": 60,
                "max_generated": 4,
                "max_new_tokens": 16,
            },
            "output": {"dir": str(tmp_path / "run")},
        }
    )
    results = lorakit.finetune(recipe).evaluation
    assert results["in_domain"].verdict == "better"
    assert results["retention"].verdict == "worse"
    shown = "\n".join(summary(results))
    assert "the margin was not kept" in shown and "Once upon a time" in shown


def test_a_variant_without_the_rows_that_are_asked_is_told_before_training() -> None:
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(30)]
    source = prepared(rows, max_length=64)
    measures = Measures(("token_f1",), primary="token_f1", max_generated=3)
    _, asked = drawn_questions(source.examples, measures, source.stop_ids)
    longer = [dict(row) for row in rows]
    for one in asked:
        longer[one.index]["prompt"] *= 200
    sets = {"in_domain": source, "in_domain+typos": prepared(longer, max_length=64)}
    assert len(sets["in_domain+typos"].examples) == 27
    with pytest.raises(DataError, match=r"in_domain\+typos: .* 0 of its 27 .* grew") as told:
        check_measurable(sets, measures, source.stop_ids)
    assert str(told.value).endswith("evaluate.primary: {in_domain: loss}.")
    check_measurable({"in_domain": source}, measures, source.stop_ids)
