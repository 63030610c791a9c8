"""Which tokens a run teaches the model to stop with."""

from __future__ import annotations

from collections import Counter

import numpy as np

from lorakit.data.examples import ExampleSet

EXAMPLES_READ = 1000


def stop_token_ids(examples: ExampleSet) -> list[int]:
    """The tokens that end trained turns, the most frequent first.

    Whoever generates with the tuned model must stop at them: they belong into its generation
    config. Law 7 has every trained assistant turn end in its stop token, so they are read off the
    ends of trained spans; with `trained: all` that is the end of the example, which may be a line
    break of the template: such an example has no span of its own and is left out.

    Args:
        examples: the training set; the first `EXAMPLES_READ` are looked at.
    """
    ends: Counter[int] = Counter()
    for index in range(min(len(examples), EXAMPLES_READ)):
        example = examples[index]
        trained = example.loss_weights > 0
        if trained[1:].all():
            continue
        last = trained & ~np.append(trained[1:], False)
        ends.update(example.input_ids[last].tolist())
    return [token for token, _ in ends.most_common()]
