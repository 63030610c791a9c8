"""How sure a model is of the option it chooses, and how often that is right."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from lorakit.evaluate.calibration import compare_choices
from lorakit.evaluate.choice import Asked, _confidence, _is_right
from lorakit.evaluate.judge import Scores
from lorakit.evaluate.likelihood import Request
from lorakit.report.files import read_run
from lorakit.report.proofs import calibration_said
from tests.report import runs


def asked(*lengths: int, right: int = 0) -> Asked:
    """A question whose options have so many tokens, of two bytes each."""
    options = tuple(Request([1], [2] * length) for length in lengths)
    return Asked(options, tuple(2 * length for length in lengths), right)


def test_confidence_is_the_chosen_option_s_share_of_all() -> None:
    questions = [asked(1, 1, 1), asked(1, 2, right=1)]
    logprobs = np.log([0.2, 0.1, 0.1, 0.3, 0.09])
    np.testing.assert_allclose(_confidence(questions, logprobs, "choice"), [0.5, 0.3 / 0.39])
    # By tokens: 0.09 of two tokens is 0.3 a token, as much as the other one.
    by_token = _confidence(questions, logprobs, "choice_text_tokens")
    np.testing.assert_allclose(by_token, [0.5, 0.5])
    assert _is_right(questions, logprobs, "choice").tolist() == [1, 0]


def test_a_model_that_is_surer_than_right_is_told(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    base, tuned = (generator.random((2, 200)) < [[0.6], [0.5]]).astype(float)
    sure = np.full(200, 0.6), np.full(200, 0.95)
    found = compare_choices(Scores(base, tuned, confidences=sure), seed=0)
    assert found is not None
    assert found.tuned.error == pytest.approx(0.95 - tuned.mean())
    assert found.overconfidence.interval[0] > 0.2
    assert compare_choices(Scores(base, tuned), seed=0) is None
    one = runs.set_evaluation("in_domain", random.Random(0))
    one["choice_calibration"] = found.to_json()
    runs.write(tmp_path / "evaluation.json", {"in_domain": one})
    titles = dict(calibration_said(read_run(tmp_path).evaluation))
    said = titles["In-domain, multiple choice"]
    assert said.effect == "worse" and "of 200 questions" in said.sentence
