"""Publishing a run: a folder that transformers loads, and a card of measured numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorakit.builtin import corpus
from lorakit.builtin.pretrain import pretrain
from lorakit.builtin.publish import QUESTIONS, publish
from lorakit.builtin.run_state import Settings

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}


@pytest.fixture(scope="module")
def published(small_shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A toy run, and the folder made of it."""
    run = tmp_path_factory.mktemp("publish") / "run"
    settings = Settings(
        main_blocks=1,
        anneal_blocks=1,
        skills_blocks=1,
        copying_blocks=1,
        ordering_blocks=1,
        block_tokens=1500,
        vocab_size=350,
    )
    model = pretrain(small_shared, run, settings, shape=SHAPE)
    model.save_pretrained(run / "model")
    AutoTokenizer.from_pretrained(run / "tokenizer").save_pretrained(run / "model")
    folder = run.parent / "model"
    publish(run, small_shared, folder, num_sums=1)
    return run, folder


def test_the_published_weights_are_the_trained_ones(published: tuple[Path, Path]) -> None:
    trained, shipped = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (published[0] / "model", published[1])
    )
    assert all(torch.equal(trained[name], shipped[name]) for name in trained)


def test_the_card_says_what_was_measured(published: tuple[Path, Path]) -> None:
    card = (published[1] / "README.md").read_text()
    records = [json.loads(line) for line in (published[0] / "log.jsonl").read_text().splitlines()]
    tokens = max(record.get("tokens", 0) for record in records)
    assert f"{tokens:,} tokens" in card
    held_out = records[-1]["held_out"]
    for part, loss in held_out.items():
        share = corpus.MIXTURES["main"].get(part, 0)
        assert f"| {part} | {share:.1%} |" in card
        assert f"| {loss:.2f} |" in card
    assert all(question.partition("\n")[0] in card for question in QUESTIONS)


def test_the_log_is_thinned_and_keeps_held_out_losses(published: tuple[Path, Path]) -> None:
    run, folder = published
    whole = (run / "log.jsonl").read_text().splitlines()
    kept = (folder / "training_log.jsonl").read_text().splitlines()
    assert set(kept) < set(whole)
    assert [line for line in whole if "held_out" in line] == [k for k in kept if "held_out" in k]
