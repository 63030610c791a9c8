"""What the numbers of a run are of: log-probabilities against transformers' own forward pass.

The reference is the base without the adapter, sampling and training are at one temperature: each
value that a checkpoint holds is computed again by a model that this loop never touched.
"""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lorakit.data.questions import question
from lorakit.train.checkpoint import read_checkpoint
from tests import families, tolerances
from tests.train.grpo_runs import CYCLES, adapted, questions, run

TEMPERATURES = (0.7, 1.0, 1.6)
ADAPTERS: dict[str, dict] = {
    "lora": {},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
}
ALWAYS = (("lora", 0.7), ("pissa", 1.6))  # the others are slow


def logprobs(
    model: PreTrainedModel, rollouts: dict[str, torch.Tensor], temperature: float
) -> torch.Tensor:
    """float32 (N,), of the tokens of all completions, each passed through alone."""
    examples, found, start = questions(), [], 0
    model.eval()
    for place, length in enumerate(rollouts["lengths"].tolist()):
        index = int(rollouts["questions"][place // CYCLES.num_generations])
        asked = question(examples[index], index, ())
        assert asked is not None
        ids = rollouts["token_ids"][start : start + length].long()
        start += length
        row = torch.cat([torch.tensor(asked.prompt_ids), ids])
        with torch.no_grad():
            logits = model(input_ids=row[None]).logits[0, -length - 1 : -1].float()
        all_of_them = torch.log_softmax(logits / temperature, dim=-1)
        found.append(all_of_them.gather(1, ids[:, None])[:, 0])
    return torch.cat(found)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize(
    ("name", "temperature"),
    [
        pytest.param(*one, marks=() if one in ALWAYS else pytest.mark.slow)
        for one in product(ADAPTERS, TEMPERATURES)
    ],
)
def test_the_reference_is_the_base_and_all_is_at_one_temperature(
    name: str, temperature: float, tmp_path: Path
) -> None:
    adapter = ADAPTERS[name]
    grpo = dataclasses.replace(
        CYCLES, temperature=temperature, rollout_importance_sampling_mode=None
    )
    run(adapted(**adapter), grpo, run_dir=tmp_path, max_steps=6, logging_steps=1)
    base = families.build("llama", initializer_range=0.2)  # that no adapter was attached to
    first = read_checkpoint(tmp_path / "checkpoints/step-1").tensors["rollouts"]
    later = read_checkpoint(tmp_path / "checkpoints/step-5").tensors["rollouts"]
    for rollouts in (first, later):
        expected = logprobs(base, rollouts, temperature)
        assert difference(rollouts["ref_logprobs"], expected) < tolerances.LOGPROBS_FLOAT32
    # The policy that sampled the first cycle is the one that was given.
    expected = logprobs(adapted(**adapter), first, temperature)
    for held in ("rollout_logprobs", "old_logprobs"):
        assert difference(first[held], expected) < tolerances.LOGPROBS_FLOAT32, held
    # The values would not do for another temperature, nor for the policy in the base's place.
    other = logprobs(base, first, 1.1 * temperature)
    assert difference(first["ref_logprobs"], other) > 100 * tolerances.LOGPROBS_FLOAT32
    assert difference(first["ref_logprobs"], expected) > 100 * tolerances.LOGPROBS_FLOAT32


@pytest.mark.parametrize("temperature", [0.7, pytest.param(1.6, marks=pytest.mark.slow)])
def test_new_log_probabilities_are_at_the_temperature_of_the_old_ones(temperature: float) -> None:
    """Of the first step of a cycle the ratio is 1, whichever pass its parts come from."""
    for steps in (1, 2):
        grpo = dataclasses.replace(
            CYCLES, temperature=temperature, generation_batch_size=4 * steps, num_iterations=1
        )
        line = run(adapted(), grpo, max_steps=1).metrics[0]
        assert line["ratio"] == pytest.approx(1, abs=1e-6)
        assert line["sampling_logp_difference"] < tolerances.LOGPROBS_FLOAT32
