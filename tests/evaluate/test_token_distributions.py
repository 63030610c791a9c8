"""KL, losses and sureness of base and tuned: against float64 by hand, in chunks, packed or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attach import attach_adapter, attached
from lorakit.adapters.attached import adapter_disabled
from lorakit.base.load import load_base
from lorakit.data.examples import ExampleSet
from lorakit.data.prepare import prepare_examples
from lorakit.data.reading import DataRules
from lorakit.evaluate import token_distributions
from lorakit.evaluate.calibration import NUM_BINS, compare_calibration, reliability
from lorakit.evaluate.token_distributions import both_distributions, kl_divergence
from lorakit.recipe import LoraConfig
from lorakit.train.losses import example_losses
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Iterator[PreTrainedModel]:
    """Tuned in every adapted layer and, by modules_to_save, in its head."""
    model, _ = load_base(tiny_folder, device="cpu", dtype=torch.float32)
    attach_adapter(model, LoraConfig(r=4, modules_to_save=["lm_head"]))
    generator = torch.Generator().manual_seed(1)
    for parameter in attached(model).parameters().values():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.3 * noise
    yield model


@pytest.fixture(scope="module")
def examples() -> ExampleSet:
    texts = [
        {"text": f"Blood pressure was {n}/80 mmHg in clinic today. " * (n % 3 + 1)}
        for n in range(7)
    ]
    asked = [
        {"prompt": f"What helps against {n}?", "completion": f"Take {n} pills."} for n in range(5)
    ]
    return prepare_examples([texts, asked], tiny.tokenizer(), DataRules()).examples


def by_hand(
    model: PreTrainedModel, examples: ExampleSet, index: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities of base and tuned at the trained positions in float64, and the targets."""
    example = examples[index]
    ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
    at = np.flatnonzero(example.loss_weights)
    found = []
    with torch.no_grad():
        for is_base in (True, False):
            if is_base:
                with adapter_disabled(model):
                    logits = model(input_ids=ids).logits
            else:
                logits = model(input_ids=ids).logits
            found.append(torch.log_softmax(logits[0, at - 1].double(), dim=-1).numpy())
    return found[0], found[1], example.input_ids[at]


@pytest.mark.parametrize("packed", [True, False])
def test_every_number_is_that_of_float64(
    model: PreTrainedModel, examples: ExampleSet, packed: bool
) -> None:
    found = both_distributions(model, examples, with_kl=True, token_budget=90, packed=packed)
    assert found.kl is not None
    sure: dict[str, list[float]] = {"base": [], "tuned": []}
    right: dict[str, list[bool]] = {"base": [], "tuned": []}
    for index in range(len(examples)):
        base, tuned, targets = by_hand(model, examples, index)
        kl = (np.exp(base) * (base - tuned)).sum()
        assert kl > 0.01
        np.testing.assert_allclose(found.kl[index], kl, rtol=1e-4)
        for name, log_p in (("base", base), ("tuned", tuned)):
            nll = -log_p[np.arange(len(targets)), targets].sum()
            losses = getattr(found, name).losses
            np.testing.assert_allclose(losses.nll[index], nll, rtol=1e-5)
            assert losses.weight[index] == len(targets)
            sure[name] += np.exp(log_p.max(axis=1)).tolist()
            right[name] += (log_p.argmax(axis=1) == targets).tolist()
    for name in sure:
        one = getattr(found, name).reliability
        confidence, correct = np.array(sure[name]), np.array(right[name], float)
        assert one.confidence == pytest.approx(confidence.mean(), rel=1e-5)
        assert one.accuracy == pytest.approx(correct.mean(), rel=1e-9)
        error = 0.0
        for low in range(NUM_BINS):
            inside = (confidence > low / NUM_BINS) & (confidence <= (low + 1) / NUM_BINS)
            if inside.any():
                error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
        assert one.error == pytest.approx(error, rel=1e-4)


def test_losses_are_those_that_training_validates_with(
    model: PreTrainedModel, examples: ExampleSet
) -> None:
    found = both_distributions(model, examples, with_kl=False, token_budget=64, packed=True)
    assert found.kl is None
    alone = example_losses(model, examples, token_budget=64, packed=True)
    np.testing.assert_array_equal(found.tuned.losses.nll, alone.nll)
    with adapter_disabled(model):
        alone = example_losses(model, examples, token_budget=64, packed=True)
    np.testing.assert_array_equal(found.base.losses.nll, alone.nll)


def test_logits_exist_in_chunks_only(
    model: PreTrainedModel, examples: ExampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = both_distributions(model, examples, with_kl=True, token_budget=256, packed=True)
    rows: list[int] = []
    made = token_distributions.logits_fn(model)

    def counting(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        return made(hidden)

    monkeypatch.setattr(token_distributions, "CHUNK_ROWS", 5)
    monkeypatch.setattr(token_distributions, "logits_fn", lambda model: counting)
    parts = both_distributions(model, examples, with_kl=True, token_budget=256, packed=True)
    assert max(rows) == 5 and sum(rows) == 2 * int(examples.trained_lengths.sum())
    assert whole.kl is not None and parts.kl is not None
    np.testing.assert_allclose(parts.kl, whole.kl, rtol=1e-5)


def test_an_untrained_adapter_is_at_no_distance(tiny_folder: Path, examples: ExampleSet) -> None:
    model, _ = load_base(tiny_folder, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    model.train()
    found = both_distributions(model, examples, with_kl=True, token_budget=256, packed=True)
    assert model.training
    np.testing.assert_array_equal(found.kl, np.zeros(len(examples)))
    calibration = compare_calibration(found.base.reliability, found.tuned.reliability, seed=0)
    assert calibration is not None and calibration.overconfidence.interval == (0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_kl_is_positive_asymmetric_and_wide(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    base, tuned = (torch.randn(6, 50, generator=generator).to(dtype) for _ in range(2))
    found = kl_divergence(base, tuned)
    log_p, log_q = (torch.log_softmax(one.double(), -1) for one in (base, tuned))
    expected = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert (found > 0).all() and not torch.allclose(found, kl_divergence(tuned, base))


def test_bins_hold_their_upper_edge_and_probabilities_may_round_up() -> None:
    confidence = np.array([0.0, 1 / NUM_BINS, 1 / NUM_BINS + 1e-9, 1.0, 1.0 + 1e-7])
    one = reliability(confidence, np.ones(5), np.array([0, 0, 1, 1, 1]), 2)
    assert (one.counts[0], one.counts[1], one.counts[-1]) == (2, 1, 2)
    assert one.example_counts.tolist() == [2, 3]


def test_calibration_by_hand_and_its_change() -> None:
    """Base 90 % sure and right in 90 %; tuned 90 % sure and right in half."""
    owner = np.repeat(np.arange(50), 20)
    confidence = np.full(1000, 0.9)
    generator = np.random.default_rng(0)
    base_right = (np.arange(1000) % 10 != 0).astype(float)
    tuned_right = (generator.random(1000) < 0.5).astype(float)
    base = reliability(confidence, base_right, owner, 50)
    tuned = reliability(confidence, tuned_right, owner, 50)
    assert base.error == pytest.approx(0, abs=1e-9)
    assert tuned.error == pytest.approx(0.9 - tuned_right.mean())
    found = compare_calibration(base, tuned, seed=0)
    assert found is not None
    low, high = found.overconfidence.interval
    assert low < found.overconfidence.difference < high and low > 0.3
    told = found.to_json()
    assert told["positions"] == 1000
    broken = reliability(np.full(1000, np.nan), base_right, owner, 50)
    assert compare_calibration(base, broken, seed=0) is None
