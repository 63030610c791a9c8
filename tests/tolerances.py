"""Every numeric tolerance of the tests, stated once, with its reason."""

import torch

# Largest allowed ||a - b|| / ||b|| of one op against its float64 reference.
OP = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}

# Logits of two float32 paths through a whole tiny model: the contract for parity and merge.
LOGITS_FLOAT32 = 1e-5

# Packed against padded, accumulated against whole: only the order of float32 sums differs.
LOSS_FLOAT32 = 1e-6
GRADIENT_FLOAT32 = 1e-5

# Parameters after a few steps of Adam on gradients that differ by the order of sums: Adam divides
# by the gradient's own size, so small gradients show the difference in full.
AFTER_ADAM_FLOAT32 = 1e-3


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """||actual - expected|| / ||expected|| in float64; the plain norm when `expected` is zero."""
    actual, expected = actual.double(), expected.double()
    norm = expected.norm().item()
    error = (actual - expected).norm().item()
    return error / norm if norm > 0 else error


# Attaching changes nothing: LoRA's zero factor adds exact zeros (tested for equality); DoRA divides
# two float32 square roots of the same sum.
IDENTITY = 1e-6

# Log-probabilities of one token: with a cache, in a batch, against a fresh forward pass (the
# issue's contract for the sampler).
LOGPROBS_FLOAT32 = 1e-4

# A faithful merge computed in bfloat16 against base + adapter in it, median over the tokens: a tiny
# model rounds about 30 times in a row, twice (`ship.verify.error_bound` of 3 layers is 0.0175).
MERGE_BFLOAT16 = 0.02

# What of a change is in packed weights, over 16 million of them: the contract. Over fewer
# the rounding is that of chance, which the standard error measures.
RETAINED = 0.01

# Planned memory against measured: "the plan is honest", within 10 % (issue 6).
PLANNED_PEAK = 0.1
