"""Answers of a model: batched, with a key/value cache, seeded per sequence, with logprobs."""

from lorakit.generate.sampler import generate
from lorakit.generate.settings import Completion, SamplingSettings

__all__ = ["Completion", "SamplingSettings", "generate"]
