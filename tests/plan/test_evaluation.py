"""What the final evaluation takes: the passes that are found, and what is counted of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import attach_adapter
from lorakit.base.empty import empty_model
from lorakit.base.families import why_not_packed
from lorakit.base.head import backbone_hidden, logits_fn
from lorakit.base.kv_groups import capacity_of
from lorakit.data.examples import Example, ExampleSet, examples_in_memory
from lorakit.data.pack import packing_of
from lorakit.evaluate.likelihood import token_logprobs
from lorakit.evaluate.token_distributions import numbers_of
from lorakit.evaluate.worst import TRAIN, WorstEvaluation, _fullest, worst_evaluation
from lorakit.generate.at_a_time import AnswerRoom
from lorakit.generate.longest import GROWN, longest_passes
from lorakit.plan.evaluation import EvaluationBytes, rehearse_evaluation
from lorakit.plan.ledger import Ledger
from lorakit.plan.plan import plan
from lorakit.plan.rehearsal import BatchShape, batch_of
from lorakit.plan.rows import Sets, up_to_length
from lorakit.plan.stand_ins import Shapes
from lorakit.recipe import EvaluateSection, LoraConfig, Recipe, parse_recipe
from tests import families

NEW_TOKENS, MAX_BATCH = 12, 4
SMALL = 8192  # bytes: of host tensors that a rehearsal does not have


def rows(lengths: list[int]) -> ExampleSet:
    """Rows of these lengths, the second half of each trained."""
    made = []
    for length in lengths:
        weights = np.zeros(length, np.float32)
        weights[length // 2 :] = 1
        made.append(Example(np.full(length, 5, np.int32), weights))
    return examples_in_memory(made)


def wanted(**values: Any) -> EvaluateSection:
    return EvaluateSection(**values)  # type: ignore[arg-type]


ASKED = wanted(
    metrics=["loss", "exact_match", "choice"], max_new_tokens=NEW_TOKENS, max_batch=MAX_BATCH
)


def worst_of(sets: dict[str, ExampleSet], section: EvaluateSection, **given: Any) -> Any:
    options = {"seed": 0, "token_budget": 100, "packed": True} | given
    usual = AnswerRoom(section.max_batch, section.max_new_tokens, None, 1, 0, 1 << 30)
    room = options.pop("room", usual)
    return worst_evaluation(sets, options.pop("train", None), section, room, **options)


def measured(model: PreTrainedModel, worst: WorstEvaluation) -> tuple[int, int, int]:
    """The peaks of losses, choices and answers on a model with data."""
    (one,) = worst.losses
    batch = batch_of(BatchShape(one.lengths, one.num_trained, worst.packed), "cpu")

    def choices() -> None:
        hidden = backbone_hidden(model, batch)
        with Shapes():  # for what `logsumexp` allocates inside
            token_logprobs(hidden, logits_fn(model), batch.predictor_rows, batch.targets)

    def peak(run: Callable[[], object]) -> int:
        with torch.no_grad(), Ledger(1, [*model.parameters(), *model.buffers()]) as ledger:
            run()
        return ledger.peak

    answers = 0
    with Ledger(1, [*model.parameters(), *model.buffers()]) as ledger:
        for stage in longest_passes(
            model,
            worst.prompts,
            NEW_TOKENS,
            max_batch=worst.at_a_time,
            max_dense_bytes=worst.dense_bytes,
            sampled=worst.sampled,
        ):
            answers = max(answers, ledger.peak * (stage != GROWN))
            ledger.begin_phase()
    return peak(lambda: numbers_of(model, batch, with_kl=one.with_kl)), peak(choices), answers


@pytest.mark.parametrize(
    ("model_type", "use_dora", "at_a_time", "sampled"),
    [
        ("llama", True, MAX_BATCH, False),
        ("llama", True, 1, False),
        ("llama", True, MAX_BATCH, True),
        ("bloom", False, MAX_BATCH, False),
        ("bloom", False, 1, False),
        pytest.param("gemma2", False, MAX_BATCH, False, marks=pytest.mark.slow),
        pytest.param("qwen3_moe", True, MAX_BATCH, True, marks=pytest.mark.slow),
    ],
)
def test_what_is_counted_is_what_is_allocated(
    model_type: str, use_dora: bool, at_a_time: int, sampled: bool
) -> None:
    config = LoraConfig(r=4, use_dora=use_dora, target_parameters=[])
    real = families.build(model_type).eval()
    attach_adapter(real, config)
    empty = empty_model(families.config(model_type), dtype=torch.float32)
    attach_adapter(empty, config)
    packed = why_not_packed(real.config) is None
    worst = worst_of({"retention": rows([40] * 7 + [9] * 5)}, ASKED, packed=packed)
    worst = replace(worst, sampled=sampled, at_a_time=at_a_time)
    found = rehearse_evaluation(empty, worst, max_new_tokens=NEW_TOKENS, device_type="cpu")
    losses, choices, answers = measured(real, worst)
    assert found.losses == pytest.approx(losses, rel=0.03, abs=SMALL)
    assert found.choices == pytest.approx(choices, rel=0.03, abs=SMALL)
    assert found.answers == pytest.approx(answers, rel=0.03, abs=SMALL)


def test_layers_that_are_stood_in_for_have_keys_and_values_too() -> None:
    """Twelve layers, of which three are run, hold twice what six of them hold."""
    caches, dense = [], []
    for num_layers in (6, 12):
        config = families.config(
            "qwen3", num_hidden_layers=num_layers, layer_types=["full_attention"] * num_layers
        )
        model = empty_model(config, dtype=torch.float32)
        attach_adapter(model, LoraConfig(r=4))
        found = rehearse_evaluation(
            model,
            worst_of({"in_domain": rows([60] * 9)}, ASKED),
            max_new_tokens=NEW_TOKENS,
            device_type="cpu",
        )
        caches.append(found.kv_cache)
        dense.append(found.dense_layers)
    assert caches[1] == pytest.approx(2 * caches[0], rel=0.01)
    assert dense[1] == pytest.approx(2 * dense[0], rel=0.01)
    heads, size = config.num_key_value_heads, config.head_dim
    room = capacity_of(30 + NEW_TOKENS)
    assert caches[1] == pytest.approx(MAX_BATCH * room * 12 * 2 * heads * size * 4, rel=0.02)


@pytest.mark.parametrize("packed", [True, False])
def test_the_largest_pass_of_all_sets_is_found(packed: bool) -> None:
    lengths = np.random.default_rng(1).integers(8, 60, 80).tolist()
    sets = {"in_domain": rows(lengths), "out_of_domain": rows([20] * 9 + [230])}
    one = worst_of(sets, wanted(metrics=["loss"]), packed=packed)
    (largest,) = one.losses
    assert (largest.set_name, largest.lengths, largest.rows) == ("out_of_domain", (230,), (9,))
    (largest,) = worst_of({"in_domain": sets["in_domain"]}, ASKED, packed=packed).losses
    groups = packing_of(packed)(lengths, 100)
    sizes = [
        sum(lengths[i] for i in group) if packed else len(group) * max(lengths[i] for i in group)
        for group in groups
    ]
    assert largest.num_tokens(packed) == max(sizes)
    # Without laying them out: within the budget, and as good as the real one.
    full = _fullest("in_domain", sets["in_domain"], np.arange(80), 100, packed)
    assert len(set(full.rows)) == len(full.rows)
    assert 0.95 * max(sizes) <= full.num_tokens(packed) <= 100


def test_retention_training_rows_and_answers_are_looked_at() -> None:
    sets = {"in_domain": rows([30] * 30), "retention": rows([24] * 30)}
    found = worst_of(sets, ASKED, train=rows([28] * 40 + [95]))
    assert {(one.set_name, one.with_kl) for one in found.losses} == {
        (TRAIN, False),
        ("retention", True),
    }
    assert max(found.losses[0].lengths + found.losses[1].lengths) == 95
    assert [len(prompt) for prompt in found.prompts] == [15] * 30
    assert found.choices
    assert found.num_scored == 30 * 15
    sampling = wanted(metrics=["math"], max_generated=20, sampling={"num_samples": 3})
    often = worst_of(sets, sampling)
    assert [len(prompt) for prompt in often.prompts] == [15] * 60
    assert often.sampled and not found.sampled
    assert worst_of({}, ASKED) is None
    quiet = worst_of(sets, wanted(metrics=["loss"], max_examples=5), train=rows([28]))
    assert not quiet.prompts and not quiet.choices and quiet.num_scored == 5 * 15


def recipe_of(folder: Any, **evaluate: Any) -> Recipe:
    families.config("llama", vocab_size=512).save_pretrained(folder)
    return parse_recipe(
        {
            "base": {"model": str(folder), "device": "cpu"},
            "adapter": {"r": 4},
            "data": {"train": "no/rows.jsonl"},
            "train": {"batch_size": 2, "micro_batch_tokens": 64, "compact_heap": True},
            "evaluate": evaluate,
        }
    )


def test_the_plan_counts_held_out_rows_and_answers(tmp_path: Any) -> None:
    def peaks_of(sets: Sets, **evaluate: Any) -> tuple[dict[str, int], EvaluationBytes]:
        recipe = recipe_of(tmp_path, in_domain="no/held.jsonl", **evaluate)
        found = plan(recipe, sets=sets).peaks
        assert found.evaluation is not None
        assert found.phases["evaluation"] > found.evaluation.peak
        return dict(found.phases), found.evaluation

    held_out = rows([200] * 40 + [900])
    sets = Sets(rows([30] * 8), np.ones(8), evaluation={"in_domain": held_out})
    phases, long = peaks_of(sets, metrics=["loss"])
    assert phases["evaluation"] > phases["training_step"]
    assert long.answers == long.choices == 0
    # A change of data.max_length leaves long rows out of what is measured, too.
    asks = {"metrics": ["loss", "exact_match"], "max_new_tokens": 20}
    _, many = peaks_of(up_to_length(sets, 200), **asks, max_batch=32)
    assert long.losses > 2 * many.losses
    _, few = peaks_of(up_to_length(sets, 200), **asks, max_batch=8)
    assert many.kv_cache == pytest.approx(4 * few.kv_cache, rel=0.01)
    assert many.answers > many.kv_cache + many.dense_layers


def test_without_rows_the_evaluation_is_assumed_and_said_to_be(tmp_path: Any) -> None:
    named = plan(recipe_of(tmp_path, retention="no/held.jsonl"), reads_rows=False)
    assert any("evaluation is of assumed rows" in note for note in named.notes)
    assert named.to_json()["evaluation_bytes"]["answers"] > 0
    nothing = plan(recipe_of(tmp_path), reads_rows=False)
    assert "evaluation" not in nothing.peaks.phases and "validation" not in nothing.peaks.phases
    assert nothing.to_json()["evaluation_bytes"] is None
