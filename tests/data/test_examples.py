"""Some examples of a set are a set of their own."""

from __future__ import annotations

import numpy as np

from lorakit.data.examples import Example, examples_in_memory, some_examples


def test_some_examples_are_those_with_a_fingerprint_of_their_own() -> None:
    weights = np.array([0.0, 1.0, 1.0], np.float32)
    whole = examples_in_memory(
        [Example(np.arange(n, dtype=np.int32), weights[:n]) for n in (1, 2, 3)]
    )
    some = some_examples(whole, np.array([2, 0]))
    assert len(some) == 2
    assert [one.num_tokens for one in (some[0], some[1])] == some.lengths.tolist() == [3, 1]
    assert some.trained_lengths.tolist() == [2, 0]
    others = [some_examples(whole, np.array(chosen)) for chosen in ([0, 2], [2], [0, 1, 2])]
    found = {one.fingerprint for one in (whole, some, *others)}
    assert len(found) == 5
    assert some.fingerprint == some_examples(whole, np.array([2, 0], np.int32)).fingerprint
