"""Completions from a server that follows vLLM's documented interface (tests/fake_vllm.py)."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lorakit.errors import AdapterError, InputError, LorakitError, RunError
from lorakit.generate import Completion, SamplingSettings
from lorakit.http_client import MAX_TRIES
from lorakit.train.checkpoint import read_checkpoint
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.outcome import TrainOutcome
from lorakit.train.vllm_sampler import VLLMSampler
from lorakit.train.vllm_server import VLLMServer
from tests import families
from tests.fake_vllm import BASE_NAME, FakeVLLM
from tests.train.grpo_runs import CYCLES, LOOP, TOKENIZER, adapted, assert_same_run, questions

PROMPT = [1, *TOKENIZER("What is asthma ?")["input_ids"]]
TINY = SamplingSettings(max_new_tokens=4, tempered_logprobs=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVLLM]:
    """Of the base that `adapted` adapts."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running


def serving(**overrides: Any) -> FakeVLLM:
    base = families.build("llama", **({"initializer_range": 0.2} | overrides))
    base.set_attn_implementation("eager")  # nothing of lorakit is in it
    return FakeVLLM(base, TOKENIZER)


def sampler_of(
    server: FakeVLLM, folder: Path, *, is_corrected: bool = True, **given: Any
) -> VLLMSampler:
    at = VLLMServer(server.url, **({"sleep": lambda _: None} | given))
    return VLLMSampler(at, folder / "vllm", up_seconds=0.0, is_corrected=is_corrected)


def ask(
    sampler: VLLMSampler,
    model: PreTrainedModel,
    settings: SamplingSettings = TINY,
    prompts: list[list[int]] | None = None,
    *,
    max_batch: int = 64,
    stop_if_asked: Callable[[], None] = lambda: None,
) -> list[Completion]:
    prompts = [PROMPT] * 3 if prompts is None else prompts
    return sampler(
        model,
        TOKENIZER,
        prompts,
        settings,
        seeds=list(range(len(prompts))),
        max_batch=max_batch,
        stop_if_asked=stop_if_asked,
    )


def run(
    server: FakeVLLM,
    model: PreTrainedModel,
    folder: Path,
    grpo: GRPOSettings = CYCLES,
    *,
    resume: bool = False,
    **loop: Any,
) -> TrainOutcome:
    with sampler_of(server, folder) as sample:
        return train_grpo(
            model,
            TOKENIZER,
            questions(),
            dataclasses.replace(LOOP, **loop),
            grpo,
            sample=sample,
            run_dir=folder,
            resume=resume,
        )


def bits(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Of the base inside of PEFT's or lorakit's adapter."""
    return {
        name.replace(".base_layer", "").removeprefix("base_model.model."): value.detach().clone()
        for name, value in model.named_parameters()
        if "lora_" not in name
    }


@pytest.mark.parametrize(
    "adapter",
    [
        {},
        {"use_rslora": True, "lora_dropout": 0.3},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
    ],
    ids=str,
)
def test_every_cycle_is_sampled_from_the_adapter_as_it_is_then(
    server: FakeVLLM, tmp_path: Path, adapter: dict[str, Any]
) -> None:
    server.logprobs_mode = "processed_logprobs"  # the temperature is 0.9
    served = bits(server.base)
    model = adapted(**adapter) if "init_lora_weights" not in adapter else started(adapter)
    outcome = run(server, model, tmp_path)
    seen = set()
    for path in (tmp_path / "checkpoints").iterdir():
        kept = read_checkpoint(path)
        rollouts = kept.tensors.get("rollouts", {})
        if "old_logps" not in rollouts:
            continue
        by_trainer = rollouts.get("undropped_logps", rollouts["old_logps"])
        trained = by_trainer != 0
        assert trained.any() or kept.state["method"]["rollouts"]["cycle"] == 0
        torch.testing.assert_close(
            rollouts["rollout_logps"][trained], by_trainer[trained], atol=1e-4, rtol=0
        )
        seen.add(kept.state["method"]["rollouts"]["cycle"])
    assert seen == {0, 1, 2}
    # Weights that are others have a name that was never used, and nothing stays behind.
    assert len(server.loaded) == 3 and not server.here
    assert not (tmp_path / "vllm").exists()
    # No base was merged into, neither here nor there.
    after = bits(server.base)
    assert all(torch.equal(after[name], value) for name, value in served.items())
    assert max(line["sampling_logp_difference"] for line in outcome.metrics) < 1e-4


def started(adapter: dict[str, Any]) -> PreTrainedModel:
    """With an init that moves a part of the base into the factors."""
    from lorakit.adapters.attach import attach_adapter
    from lorakit.recipe import LoraConfig

    model = families.build("llama", initializer_range=0.2)
    attach_adapter(model, LoraConfig(r=4, lora_alpha=8, **adapter))
    return model
