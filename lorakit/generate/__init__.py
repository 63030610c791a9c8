"""Text from a model: batched, key/value cache, seeded per sequence, log-probabilities kept."""

from lorakit.generate.sampler import generate
from lorakit.generate.settings import Completion, SamplingSettings

__all__ = ["Completion", "SamplingSettings", "generate"]
