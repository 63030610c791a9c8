"""Draws follow the distribution that temperature, top-k and top-p define."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorakit.generate import SamplingSettings, generate
from lorakit.generate.choose import at_temperature, choose_tokens, left_in, uniforms
from tests import families, tiny
from tests.generate.law import fresh_logprobs

DRAWS = 10_000
CASES = [
    {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    for temperature in (0.5, 1.0, 1.7)
    for top_p, top_k, min_p in (
        (1.0, None, None),
        (0.8, None, None),
        (1.0, 12, None),
        (0.7, 20, None),
        (1.0, None, 0.1),
        (0.9, 30, 0.05),
    )
]


def exact(
    logits: np.ndarray, temperature: float, top_p: float, top_k: int | None, min_p: float | None
) -> np.ndarray:
    """The definition in float64: temperature, the top_k best, the fewest of those with top_p, of
    these what is min_p times as probable as the best.
    """
    scaled = logits.astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = sorted(range(len(logits)), key=lambda token: -probabilities[token])
    order = order[:top_k]
    kept, mass = [], 0.0
    for token in order:
        kept.append(token)
        mass += probabilities[token] / probabilities[order].sum()
        if mass >= top_p:
            break
    if min_p is not None:
        kept = [token for token in kept if probabilities[token] >= min_p * probabilities.max()]
    out = np.zeros_like(probabilities)
    out[kept] = probabilities[kept] / probabilities[kept].sum()
    return out


def chi_square_p(tokens: torch.Tensor, probabilities: np.ndarray) -> float:
    """Probability of a fit as bad as this or worse. Tokens expected less than 5 times are one."""
    counts = np.bincount(tokens.numpy(), minlength=len(probabilities)).astype(np.float64)
    assert counts[probabilities == 0].sum() == 0
    expected = probabilities * len(tokens)
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = ((counts - expected) ** 2 / expected).sum()
    halves = torch.tensor([len(counts) - 1, statistic], dtype=torch.float64) / 2
    return torch.special.gammaincc(*halves).item()


def test_the_chi_square_test_notices_a_wrong_temperature() -> None:
    logits = torch.randn(50)
    tokens = torch.multinomial((logits / 1.1).softmax(0), DRAWS, replacement=True)
    wrong = chi_square_p(tokens, exact(logits.numpy(), 1.0, 1.0, None, None))
    right = chi_square_p(tokens, exact(logits.numpy(), 1.1, 1.0, None, None))
    assert wrong < 1e-4 < 0.01 < right


@pytest.mark.parametrize("case", CASES, ids=str)
def test_draws_of_many_seeds_follow_the_distribution(case: dict) -> None:
    logits = torch.randn(60) * 2
    drawn = uniforms(range(DRAWS), [7] * DRAWS)
    tokens, _ = choose_tokens(logits.expand(DRAWS, -1), drawn, **case)
    assert chi_square_p(tokens, exact(logits.numpy(), **case)) > 0.001


@pytest.mark.parametrize("case", CASES, ids=str)
def test_draws_of_one_seed_follow_the_distribution(case: dict) -> None:
    logits = torch.randn(60) * 2
    drawn = uniforms([7] * DRAWS, range(DRAWS))
    tokens, _ = choose_tokens(logits.expand(DRAWS, -1), drawn, **case)
    assert chi_square_p(tokens, exact(logits.numpy(), **case)) > 0.001


@pytest.mark.parametrize("case", [CASES[6], CASES[9], CASES[11], CASES[17]], ids=str)
def test_generated_tokens_follow_the_distribution(case: dict) -> None:
    model = families.build("llama", initializer_range=0.4)
    prompt = [7, 8, 9]
    completions = generate(
        model,
        tiny.tokenizer(),
        [prompt] * DRAWS,
        SamplingSettings(max_new_tokens=1, seed=3, **case),
        max_batch=512,
    )
    logits = fresh_logprobs(model, prompt, [0])[0].numpy()
    tokens = torch.tensor([one.token_ids[0] for one in completions])
    assert chi_square_p(tokens, exact(logits, **case)) > 0.001


@pytest.mark.parametrize("case", CASES, ids=str)
def test_probabilities_equal_the_definition(case: dict) -> None:
    logits = torch.randn(5, 60) * 2
    limits = {name: value for name, value in case.items() if name != "temperature"}
    got = left_in(at_temperature(logits, case["temperature"]), **limits).double()
    got = got / got.sum(dim=1, keepdim=True)
    expected = np.stack([exact(row, **case) for row in logits.numpy()])
    assert np.abs(got.numpy() - expected).max() < 1e-6


def test_ties_at_the_edge_keep_the_lower_ids() -> None:
    uniform = at_temperature(torch.zeros(1, 10), 1.0)
    probabilities = left_in(uniform, top_p=1.0, top_k=3, min_p=None)
    assert probabilities.nonzero()[:, 1].tolist() == [0, 1, 2]


def test_the_ends_of_the_random_numbers_draw_possible_tokens() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]])
    for number, token in ((0.0, 1), (1 - 2.0**-53, 2)):
        drawn = torch.tensor([number], dtype=torch.float64)
        found, _ = choose_tokens(logits, drawn, temperature=1.0, top_p=1.0, top_k=None, min_p=None)
        assert found == token


def test_random_numbers_are_a_function_of_seed_and_step() -> None:
    seeds, steps = [3, -5, 3, 2**62], [0, 9, 4, 0]
    together = uniforms(seeds, steps)
    alone = [uniforms([seed], [step]).item() for seed, step in zip(seeds, steps, strict=True)]
    assert together.tolist() == alone
    assert len(set(alone)) == 4
    grid = uniforms(torch.arange(300).repeat_interleave(300).tolist(), list(range(300)) * 300)
    assert len(set(grid.tolist())) == len(grid)
    grid = grid.view(300, 300) - 0.5
    # Neighbouring seeds and steps are not correlated: 5 standard deviations of a product's mean.
    for neighbour in (grid[1:] * grid[:-1], grid[:, 1:] * grid[:, :-1]):
        assert abs(neighbour.mean().item()) < 5 / 12 / neighbour.numel() ** 0.5


def test_no_temperature_takes_the_most_probable() -> None:
    logits = torch.randn(4, 30)
    tokens, _ = choose_tokens(logits, None, temperature=0, top_p=1.0, top_k=None, min_p=None)
    assert torch.equal(tokens, logits.argmax(dim=1))


@pytest.mark.parametrize("tempered", [True, False])
@pytest.mark.parametrize("temperature", [0, 0.3, 1.0, 50.0])
def test_log_probabilities_equal_the_definition(temperature: float, tempered: bool) -> None:
    """Also of a token that has no probability in float32 but at the temperature it is drawn at."""
    if tempered and temperature == 0:
        return
    logits = torch.randn(6, 40) * 3
    logits[:, 7] += 200
    drawn = None if temperature == 0 else torch.linspace(0, 0.99, 6).double()
    tokens, found = choose_tokens(
        logits,
        drawn,
        temperature=temperature,
        top_p=1.0,
        top_k=None,
        min_p=None,
        tempered_logprobs=tempered,
    )
    told = logits.double() / (temperature if tempered else 1)
    expected = told.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
    assert (found - expected).abs().max() < 2e-5 * max(1.0, expected.abs().max().item())
    if temperature == 50:
        assert (tokens != 7).any()
