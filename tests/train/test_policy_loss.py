"""The policy's objective: what TRL's parity (test_policy_parity.py) does not show."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from lorakit.errors import InputError
from lorakit.train.per_completion import add_statistics
from lorakit.train.policy_loss import (
    Counts,
    LossType,
    PolicyLossSettings,
    PolicyTokens,
    divisor,
    policy_loss,
)
from lorakit.train.rollout_corrections import rollout_corrections

LENGTHS = torch.tensor([3, 1, 4, 2])
N = int(LENGTHS.sum())
HIGH = {"cispo": 1.2}


def settings_of(loss_type: str, **options) -> PolicyLossSettings:
    return PolicyLossSettings(loss_type=loss_type, epsilon_high=HIGH.get(loss_type), **options)


def tokens_of(logprobs: torch.Tensor, chosen: list[int], **options) -> PolicyTokens:
    """The completions that are chosen, of values that stay the same."""
    generator = torch.Generator().manual_seed(0)
    old, ref = -2 * torch.rand(2, N, dtype=logprobs.dtype, generator=generator)
    advantages = torch.randn(len(LENGTHS), dtype=logprobs.dtype, generator=generator)
    at = torch.cat([torch.arange(N).split(LENGTHS.tolist())[i] for i in chosen])
    values = {"old_logprobs": old[at], "ref_logprobs": ref[at]} | options
    return PolicyTokens(logprobs[at], LENGTHS[chosen], advantages[chosen], **values)


def some_logprobs() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (-2 * torch.rand(N, dtype=torch.float64, generator=generator)).requires_grad_()


@pytest.mark.parametrize("loss_type", get_args(LossType))
def test_the_cut_into_micro_batches_changes_nothing(loss_type: str) -> None:
    """One count per step: to the last bits of float64, whatever the cut."""
    settings = settings_of(loss_type, beta=0.1, delta=None if loss_type == "cispo" else 1.5)
    outcomes = []
    for cut in ([[0, 1, 2, 3]], [[2], [0, 3], [1]], [[3, 2], [1, 0]]):
        logprobs, statistics, total = some_logprobs(), {}, 0.0
        for chosen in cut:
            loss, found = policy_loss(tokens_of(logprobs, chosen), settings)
            loss.backward()
            total += loss.item()
            add_statistics(statistics, found)
        outcomes.append((total, logprobs.grad, statistics))
    for total, grad, statistics in outcomes[1:]:
        assert total == pytest.approx(outcomes[0][0], rel=1e-12)
        assert torch.allclose(grad, outcomes[0][1], rtol=1e-12, atol=1e-14)
        for name, entry in outcomes[0][2].items():
            assert torch.allclose(statistics[name], entry, rtol=1e-12), name


@pytest.mark.parametrize("loss_type", [name for name in get_args(LossType) if name != "cispo"])
def test_gradcheck(loss_type: str) -> None:
    # Not of cispo, whose gradient is not that of its value: nothing flows through its ratio.
    settings = settings_of(loss_type, beta=0.1)

    def loss(logprobs: torch.Tensor) -> torch.Tensor:
        return policy_loss(tokens_of(logprobs, [0, 1, 2, 3]), settings)[0]

    assert torch.autograd.gradcheck(loss, (some_logprobs(),))


def test_cispo_is_a_weighted_log_likelihood() -> None:
    logprobs = some_logprobs()
    given = tokens_of(logprobs, [0, 2, 3])
    loss, _ = policy_loss(given, settings_of("cispo"))
    loss.backward()
    ratio = (given.logprobs - given.old_logprobs).detach().exp()
    at_each = given.advantages.repeat_interleave(given.lengths)
    expected = -ratio.clamp(max=1.2) * at_each
    assert torch.allclose(torch.cat([logprobs.grad[:3], logprobs.grad[4:]]), expected)


def test_without_old_log_probabilities_the_ratio_is_1_and_has_a_gradient() -> None:
    logprobs = some_logprobs()
    given = tokens_of(logprobs, [0, 1, 2, 3], old_logprobs=None)
    loss, found = policy_loss(given, settings_of("dapo"))
    loss.backward()
    assert torch.allclose(logprobs.grad, -given.advantages.repeat_interleave(LENGTHS))
    assert (found["ratio"] == N).all() and found["clip_ratio/region"][0] == 0


def test_divisors() -> None:
    counts = Counts(completions=6, tokens=40, tokens_generated=90, steps_of_cycle=2)
    found = {name: divisor(settings_of(name), counts) for name in get_args(LossType)}
    assert found == {
        "grpo": 6,
        "gspo": 6,
        "dr_grpo": 6 * 256,
        "bnpo": 40,
        "dapo": 45,
        "cispo": 45,
    }
    nothing = Counts(completions=6, tokens=0, tokens_generated=0, steps_of_cycle=2)
    assert all(divisor(settings_of(name), nothing) > 0 for name in get_args(LossType))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss_type": "ppo"}, "possible: grpo, dr_grpo, bnpo, dapo, gspo, cispo"),
        ({"loss_type": "cispo"}, "no epsilon_high with loss_type cispo"),
        ({"loss_type": "cispo", "epsilon_high": 5.0, "delta": 7.0}, "delta with loss_type cispo"),
        ({"loss_type": "gspo", "importance_sampling_level": "token"}, "is what gspo means"),
        ({"importance_sampling_level": "word"}, "possible: token, sequence"),
        ({"epsilon": -0.1, "beta": float("nan")}, "epsilon -0.1 .*beta nan"),
        ({"epsilon_high": 0.3, "delta": 1.3}, "above 1 \\+ epsilon_high, 1.3"),
        ({"max_completion_length": 0}, "max_completion_length 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        PolicyLossSettings(**options)


def test_a_divergence_needs_the_base() -> None:
    with pytest.raises(ValueError, match="of the base are needed"):
        given = tokens_of(some_logprobs(), [0], ref_logprobs=None)
        policy_loss(given, settings_of("dapo", beta=0.1))


def test_equal_numerics_are_not_corrected_and_unknown_modes_refused() -> None:
    logprobs = some_logprobs().detach()
    for mode in ("token_mask", "sequence_truncate"):
        found, statistics = rollout_corrections(
            logprobs, logprobs, LENGTHS, mode=mode, clip_max=3.0
        )
        assert (found == 1).all() and statistics["sampling_logp_difference"][0] == 0
    # No bound: nothing is cut off.
    far, _ = rollout_corrections(
        logprobs, logprobs - 9, LENGTHS, mode="token_truncate", clip_max=None
    )
    assert torch.allclose(far, torch.full_like(far, 9).exp())
    with pytest.raises(ValueError, match="possible: token_truncate"):
        rollout_corrections(logprobs, logprobs, LENGTHS, mode="tokens", clip_max=3.0)
