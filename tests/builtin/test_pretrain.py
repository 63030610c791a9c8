"""Pretraining: losses inside documents, and a resumed run equal to an uninterrupted one."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from lorakit.builtin import blocks, weights
from lorakit.builtin.pretrain import pretrain
from lorakit.builtin.run_state import Settings
from lorakit.errors import CheckpointError
from tests import tiny, tolerances

SETTINGS = Settings(
    main_blocks=2,
    anneal_blocks=1,
    skills_blocks=1,
    copying_blocks=1,
    ordering_blocks=1,
    block_tokens=3000,
    batch_tokens=500,
    warmup_tokens=1000,
    vocab_size=400,
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def train(shared: Path, output: Path, **keywords: object) -> LlamaForCausalLM:
    return pretrain(shared, output, SETTINGS, shape=SHAPE, **keywords)


def logged(output: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in r.items() if key != "seconds"} for r in records]


@pytest.fixture(scope="module")
def whole(small_shared: Path, tmp_path_factory: pytest.TempPathFactory):
    output = tmp_path_factory.mktemp("pretrain") / "run"
    return train(small_shared, output), output


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 7, 16])
def test_a_resumed_run_equals_an_uninterrupted_one(
    stop: int, whole: tuple[LlamaForCausalLM, Path], small_shared: Path, tmp_path: Path
) -> None:
    model, output = whole
    # The tokenizer is the slow part, and the same.
    shutil.copytree(output / "tokenizer", tmp_path / "run" / "tokenizer")
    train(small_shared, tmp_path / "run", stop_after_step=stop)
    resumed = train(small_shared, tmp_path / "run", resume=True)
    expected, actual = model.state_dict(), resumed.state_dict()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    steps = [record for record in logged(output) if "loss" in record]
    assert len(steps) >= 20
    assert [record for record in logged(tmp_path / "run") if "loss" in record] == steps


def test_the_loss_falls_and_the_learning_rate_ends_near_zero(
    whole: tuple[LlamaForCausalLM, Path],
) -> None:
    steps = [record for record in logged(whole[1]) if "loss" in record]
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3
    assert steps[-1]["learning_rate"] < 0.4 * max(r["learning_rate"] for r in steps)
    assert {record["phase"] for record in steps} == {
        "main",
        "anneal",
        "skills",
        "copying",
        "ordering",
    }


@pytest.mark.parametrize("stop", [0, 3])
def test_a_run_from_a_published_model_trains_from_a_phase_on(
    stop: int, whole: tuple[LlamaForCausalLM, Path], small_shared: Path, tmp_path: Path
) -> None:
    """Also stopped in the middle of its warm-up and resumed; in float32."""
    published = tmp_path / "published"
    whole[0].save_pretrained(published)
    shutil.copytree(whole[1] / "tokenizer", published, dirs_exist_ok=True)
    shutil.copy(whole[1] / "log.jsonl", published / "training_log.jsonl")
    settings = replace(SETTINGS, matrices="adamw", dtype="float32", warmup_tokens=3000)

    def adopt(output: Path, **keywords: object) -> LlamaForCausalLM:
        return pretrain(small_shared, output, settings, shape=SHAPE, **keywords)

    in_one_go = adopt(tmp_path / "run", from_model=published, phase="copying")
    old, new = logged(whole[1]), logged(tmp_path / "run")
    assert new[: len(old)] == old
    assert {r["phase"] for r in new[len(old) :] if "loss" in r} == {"copying", "ordering"}
    before = whole[0].state_dict()
    assert any(not torch.equal(before[n], w) for n, w in in_one_go.state_dict().items())
    if stop:
        steps = int(str(old[-1]["step"])) + stop
        adopt(tmp_path / "other", from_model=published, phase="copying", stop_after_step=steps)
        resumed = adopt(tmp_path / "other", resume=True)
        other = logged(tmp_path / "other")
        expected, actual = in_one_go.state_dict(), resumed.state_dict()
        assert all(torch.equal(expected[name], actual[name]) for name in expected)
        # A stop measures the held-out losses once more.
        steps_of = [[r for r in records if "loss" in r] for records in (other, new)]
        assert steps_of[0] == steps_of[1]


def test_the_weights_are_float32_at_the_end(whole: tuple[LlamaForCausalLM, Path]) -> None:
    assert {weight.dtype for weight in whole[0].parameters()} == {torch.float32}


def test_a_checkpoint_of_other_settings_is_refused(
    whole: tuple[LlamaForCausalLM, Path], small_shared: Path
) -> None:
    other = replace(SETTINGS, learning_rate=1.0)
    with pytest.raises(CheckpointError, match="learning_rate"):
        pretrain(small_shared, whole[1], other, shape=SHAPE, resume=True)


def test_nothing_to_resume_is_said(
    whole: tuple[LlamaForCausalLM, Path], small_shared: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole[1] / "tokenizer", tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match="without --resume"):
        train(small_shared, tmp_path, resume=True)


def test_a_batch_has_the_loss_of_its_documents_one_by_one() -> None:
    settings = weights.config(tiny.tokenizer(), **SHAPE)
    model = weights.new_model(settings, seed=0)
    documents = [[2, 3, 4, 1], [7, 8, 9, 10, 11, 12, 1], [5, 1]]
    packed = weights.batch_loss(model, blocks.batches(documents, 100)[0]).item()
    plain = LlamaForCausalLM._from_config(settings, attn_implementation="sdpa")
    plain.load_state_dict(model.state_dict())
    total = 0.0
    for document in documents:
        ids = torch.tensor([document])
        total += plain(input_ids=ids, labels=ids).loss.item() * (len(document) - 1)
    count = sum(len(document) - 1 for document in documents)
    assert packed == pytest.approx(total / count, rel=tolerances.LOSS_FLOAT32)


def test_batches_keep_every_document_once() -> None:
    documents = [[number] * (number % 7 + 1) for number in range(50)]
    made = blocks.batches(documents, 20)
    assert torch.cat([batch.tokens for batch in made]).tolist() == list(itertools.chain(*documents))
    assert [length for batch in made for length in batch.lengths] == [len(d) for d in documents]
    assert all(len(batch.tokens) >= 20 for batch in made[:-1])
