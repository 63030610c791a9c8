"""Before and after: losses per example, paired intervals, verdicts."""

from lorakit.evaluate.compare import SetResult, compare_sets
from lorakit.evaluate.loss import ExampleLosses, example_losses

__all__ = ["ExampleLosses", "SetResult", "compare_sets", "example_losses"]
