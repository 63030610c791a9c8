"""Text from a model: batched, cached, seeded per sequence, with the log-probabilities."""

from lorakit.generate.sampler import generate
from lorakit.generate.settings import Completion, SamplingSettings

__all__ = ["Completion", "SamplingSettings", "generate"]
