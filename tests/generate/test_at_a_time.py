"""How many answers are written at a time, beside which dense weights, where nobody says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from lorakit.adapters.attach import attach_adapter
from lorakit.base.empty import empty_model
from lorakit.base.kv_groups import capacity_of
from lorakit.generate import SamplingSettings, generate, sampler
from lorakit.generate.at_a_time import (
    DENSE_SHARE,
    MAX_BATCH,
    AnswerRoom,
    cache_bytes_per_token,
)
from lorakit.plan.plan import plan
from lorakit.recipe import EvaluateSection, LoraConfig, parse_recipe
from tests import families, tiny
from tests.plan.large_bases import LLAMA_3_1_8B
from tests.plan.test_evaluation import rows, worst_of

TOKENIZER = tiny.tokenizer()


def room_of(given: int | None = None, *, cache_bytes: int = 0, context: int | None = None) -> Any:
    return AnswerRoom(given, 256, context, token_bytes=1000, cache_bytes=cache_bytes, dense_bytes=0)


def cached_bytes(model: Any, num_tokens: int) -> int:
    """What transformers keeps of so many tokens, states of recurrent layers left out."""
    kept = model(input_ids=torch.ones(1, num_tokens, dtype=torch.int64), use_cache=True)
    cache = kept.get("past_key_values")
    layers = [] if cache is None else cache.layers
    tensors = [t for layer in layers for t in (vars(layer).get("keys"), vars(layer).get("values"))]
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


# Whose layers are alike, and all attend: what they keep is what is counted.
EXACT = ("llama", "gemma2", "qwen3_moe", "bloom", "gpt2", "opt", "phi3", "jetmoe")


@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param(one, marks=[] if one in EXACT or one == "gemma4_text" else pytest.mark.slow)
        for one in families.FAMILIES
    ],
)
def test_no_family_keeps_more_of_a_token_than_is_counted(model_type: str) -> None:
    # A family that does not know the field ignores it, but its config keeps it.
    known = "num_key_value_heads" in vars(AutoConfig.for_model(model_type))
    model = families.build(model_type, **({} if known else {"num_key_value_heads": None}))
    counted = cache_bytes_per_token(model.config, 4)
    with torch.no_grad():
        kept = (cached_bytes(model, 5) - cached_bytes(model, 2)) / 3
    assert kept <= counted
    assert kept == counted or model_type not in EXACT


def test_a_number_that_is_given_stays() -> None:
    assert [room_of(200, cache_bytes=free).at_a_time(5000) for free in (0, 1 << 40)] == [200, 200]


def test_as_many_as_fit_are_a_power_of_two_and_one_at_least() -> None:
    of_one = 1000 * capacity_of(512)  # a prompt of 256 tokens and as many new ones
    found = [room_of(cache_bytes=count * of_one).at_a_time(256) for count in range(200)]
    assert found == sorted(found)
    assert set(found) == {1, 2, 4, 8, 16, 32, 64} and max(found) == MAX_BATCH
    for count, at_a_time in enumerate(found):
        assert at_a_time <= max(1, count) and min(MAX_BATCH, count) < 2 * at_a_time
    # Beyond its context a model writes nothing.
    assert room_of(cache_bytes=8 * of_one, context=512).at_a_time(9999) == 8


def test_the_set_is_the_worst_that_takes_most_as_it_is_answered() -> None:
    """Many short questions at a time, or few long ones: of each set as many as fit."""
    sets = {"in_domain": rows([40] * 90), "out_of_domain": rows([4000] * 20)}
    asks = EvaluateSection(metrics=["loss", "exact_match"], max_new_tokens=10)
    for cache_bytes in (10_000, 1_000_000, 100_000_000):
        room = AnswerRoom(None, 10, None, token_bytes=10, cache_bytes=cache_bytes, dense_bytes=7)
        found = worst_of(sets, asks, room=room)
        assert len(found.prompts[0]) == 2000
        assert (found.at_a_time, found.dense_bytes) == (room.at_a_time(2000), 7)


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_model_without_data_says_what_the_loaded_one_says(use_dora: bool) -> None:
    config = LoraConfig(r=4, use_dora=use_dora)
    real, empty = (
        families.build("llama"),
        empty_model(families.config("llama"), dtype=torch.float32),
    )
    for model in (real, empty):
        attach_adapter(model, config)
    for free in (None, 0, 100_000, 1 << 40):
        found = [room_in(free, model) for model in (real, empty)]
        assert found[0] == found[1]
    # Adapted layers are made dense for answers: that much less is left.
    assert found[0].cache_bytes < (1 << 40) // 2
    here = AnswerRoom.here(real, max_new_tokens=20, given=None)
    assert here.at_a_time(20) == MAX_BATCH and here.dense_bytes > 0


def room_in(free_bytes: int | None, model: Any) -> AnswerRoom:
    return AnswerRoom.of(model, max_new_tokens=20, given=None, free_bytes=free_bytes)


def test_dense_weights_follow_from_the_free_memory() -> None:
    model = families.build("llama")
    attach_adapter(model, LoraConfig(r=4))
    sizes = [room_in(free, model).dense_bytes for free in range(0, 1 << 20, 999)]
    assert sizes == sorted(sizes) and sizes[0] == 0 and len(set(sizes)) < 20
    for free, size in zip(range(0, 1 << 20, 999), sizes, strict=True):
        assert size <= DENSE_SHARE * free and (size == 0 or DENSE_SHARE * free < 2 * size)
    # Of a machine that nobody knows nothing is lent.
    unknown = room_in(None, model)
    assert (unknown.dense_bytes, unknown.at_a_time(20)) == (0, MAX_BATCH)


@pytest.mark.parametrize("free_bytes", [0, 1 << 40])
def test_whoever_generates_asks_the_same(free_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numbers `generate` takes those of the room that is there, with numbers these."""
    model = families.build("llama")
    attach_adapter(model, LoraConfig(r=4))
    monkeypatch.setattr("lorakit.generate.at_a_time.free_bytes", lambda device: free_bytes)
    asked: list[int] = []

    def noted(function: Any) -> Any:
        def with_note(model: Any, number: int) -> Any:
            asked.append(number)
            return function(model, number)

        return with_note

    for name in ("dense_layers", "decoder_for"):
        monkeypatch.setattr(sampler, name, noted(vars(sampler)[name]))
    settings, prompts = SamplingSettings(max_new_tokens=2, temperature=0.0), [[5, 6, 7]] * 100
    generate(model, TOKENIZER, prompts, settings)
    generate(model, TOKENIZER, prompts, settings, max_batch=3, max_dense_bytes=11)
    room = AnswerRoom.here(model, max_new_tokens=2, given=None)
    assert asked == [room.dense_bytes, room.at_a_time(3), 11, 3]
    assert room.at_a_time(3) == (MAX_BATCH if free_bytes else 1)


def planned(folder: Path, budget: int, **evaluate: Any) -> Any:
    recipe = parse_recipe(
        {
            "base": {"model": str(folder), "quantization": "nf4"},
            "data": {"train": "no/rows.jsonl"},
            "evaluate": {"in_domain": "no/held.jsonl", "metrics": ["loss", "rouge_l"], **evaluate},
        }
    )
    return plan(recipe, gpu="rtx4090", budget=budget, reads_rows=False)


def test_the_plan_is_made_for_as_many_as_fit(tmp_path: Path) -> None:
    small = LLAMA_3_1_8B | {"num_hidden_layers": 4}
    (tmp_path / "config.json").write_text(json.dumps(small))
    found = [planned(tmp_path, gib << 30) for gib in (4, 6, 23)]
    numbers = [one.setup["answers_at_a_time"] for one in found]
    assert numbers == sorted(numbers) and numbers[0] < numbers[-1]
    pairs = zip(found, numbers, strict=True)
    caches = [one.peaks.evaluation.kv_cache / number for one, number in pairs]
    assert caches == pytest.approx([caches[0]] * 3, rel=1e-3)
    assert planned(tmp_path, 4 << 30, max_batch=48).setup["answers_at_a_time"] == 48
    assert planned(tmp_path, 4 << 30, metrics=["loss"]).setup["answers_at_a_time"] is None


@pytest.mark.slow  # an 8B base
def test_answers_do_not_keep_an_8b_base_from_a_card_of_24_gb(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    assert planned(tmp_path, 24 << 30).gpu["fits"]
    assert not planned(tmp_path, 24 << 30, max_batch=64).gpu["fits"]
