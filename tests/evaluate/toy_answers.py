"""Answers of a pretended model, made to be scored by the real scorers: notes with sections whose
facts are right, another patient's, or missing, as often as each example is hard."""

from __future__ import annotations

from functools import cache

import numpy as np

from lorakit import tasks

SECTIONS = {
    "Problem": ("fever", "rash", "cough", "chest pain", "headache", "vertigo", "back pain"),
    "Assessment": ("measles", "angina", "migraine", "pneumonia", "otitis", "gastritis", "anaemia"),
    "Plan": ("rest", "paracetamol 500 mg", "amoxicillin 1 g", "an x-ray", "a plaster", "surgery"),
    "Follow-up": ("in 2 days", "in 1 week", "in 6 weeks", "at once if worse", "with the doctor"),
}
NUM_EXAMPLES = 300
NUM_SAMPLES = 4  # answers of one model to one example, with different seeds
SCORERS = ("exact_match", "outline", "section_f1", "token_f1", "content")


def _facts(generator: np.random.Generator) -> dict[str, str]:
    return {
        heading: " and ".join(generator.choice(facts, size=2, replace=False))
        for heading, facts in SECTIONS.items()
    }


def _write(parts: dict[str, str]) -> str:
    return "\n".join(f"{heading}: {text}" for heading, text in parts.items())


def references(seed: int = 0) -> list[dict[str, str]]:
    """The right answers, section by section."""
    generator = np.random.default_rng(seed)
    return [_facts(generator) for _ in range(NUM_EXAMPLES)]


@cache
def answers(skill: float, seed: int) -> list[list[str]]:
    """NUM_SAMPLES answers to each example by a model that knows a section with odds around `skill`.

    How hard an example is does not depend on the model, so that scores go together.
    """
    ease_E = np.random.default_rng(1).beta(1.0, 1.0, NUM_EXAMPLES)
    odds_E = ease_E ** (1 / skill)
    generator = np.random.default_rng(seed)

    def answer(right: dict[str, str], odds: float) -> str:
        other = _facts(generator)
        parts = {}
        for heading, text in right.items():
            if generator.random() < 0.97:
                parts[heading] = text if generator.random() < odds else other[heading]
        return _write(parts)

    return [
        [answer(right, odds) for _ in range(NUM_SAMPLES)]
        for right, odds in zip(references(), odds_E, strict=True)
    ]


@cache
def scores(name: str, skill: float, num_examples: int) -> np.ndarray:
    """float64 (num_examples, NUM_SAMPLES): the real scorer on the first examples."""
    right = [_write(parts) for parts in references()[:num_examples]]
    columns = zip(*answers(skill, seed=2)[:num_examples], strict=True)
    score = tasks.scorer(name).scores
    return np.stack([score(column, right, tasks.ScoringOptions()) for column in columns], axis=1)


def changes_of_style(num_examples: int, generator: np.random.Generator) -> np.ndarray:
    """float64 (num_examples,): how `content` changes from prose to notes, both about others."""

    def note() -> dict[str, str]:
        facts = _facts(generator)
        return {heading: text for heading, text in facts.items() if generator.random() < 0.8}

    right = [_write(note()) for _ in range(num_examples)]
    notes = [_write(note()) for _ in range(num_examples)]
    prose = [f"I think of {' '.join(note().values())}; see a doctor." for _ in range(num_examples)]
    content = tasks.scorer("content").scores
    options = tasks.ScoringOptions()
    return content(notes, right, options) - content(prose, right, options)
