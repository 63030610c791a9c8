"""compare.json and compare_answers.jsonl made by code, in their shape, with hostile text."""

from __future__ import annotations

from typing import Any

from tests.report.runs import HOSTILE, LONG, ODD, RIGHT_TO_LEFT

TITLES = {
    "base": "plain prompt",
    "few_shot": "few-shot",
    "retrieval": "retrieval",
    "tuned": "tuned",
    "tuned_retrieval": "tuned + retrieval",
}


def compare_told(**changed: Any) -> dict[str, Any]:
    """compare.json; the numbers are of no run."""
    means = dict(zip(TITLES, (0.31, 0.36, 0.52, 0.47, 0.71), strict=True))
    costs = dict(zip(TITLES, (0.21, 0.64, 0.58, 0.17, 0.49), strict=True))
    setups = dict(zip(TITLES, (0.0, 0.001, 0.004, 1.4, 1.404), strict=True))
    return {
        "set": "in_domain",
        "available": 300,
        "examples": 100,
        "primary": "token_f1",
        "higher_is_better": {"token_f1": True, "loss": False},
        "margin": 0.05,
        "calls": 100_000,
        "ways": {
            name: _way(title, means[name], means["base"], costs[name], setups[name])
            for name, title in TITLES.items()
        },
        "not_measured": {},
        "cost_basis": {"unit": "USD", "call": f"rtx4090 {HOSTILE}", "setup": "0.34 an hour"},
        "break_even": {"against": "retrieval", "calls": {"tuned": 4_100, "tuned_retrieval": None}},
        "recommendation": {
            "verdict": "recommended",
            "way": "tuned_retrieval",
            "candidates": ["tuned_retrieval"],
            "best": "tuned_retrieval",
            "good_enough": ["tuned_retrieval"],
            "by_calls": [{"from": 0, "way": "retrieval"}, {"from": 4_100, "way": "tuned"}],
            "reasons": ["token_f1 is best for tuned + retrieval", f"a reason {HOSTILE}"],
        },
        "notes": [f"a note {HOSTILE}"],
        "run": f"runs/{HOSTILE}",
        "base": "clinic/small-base",
        "machine": "cpu",
        "prices": "prices.yaml",
        "commit": "0123abc",
        "documents": {"files": 12, "chunks": 480},
        "examples_to_choose_from": 2_000,
    } | changed


def _way(title: str, mean: float, base: float, cost: float, setup: float) -> dict[str, Any]:
    low = mean - base
    change = None if mean == base else {"difference": low, "interval": [low - 0.06, low + 0.06]}
    loss = {"difference": -low, "interval": [-low - 0.1, -low + 0.1]}
    return {
        "title": title,
        "metrics": {
            "token_f1": {
                "mean": mean,
                "interval": [mean - 0.05, mean + 0.05],
                "against_base": change,
                "against_best": None,
            },
            "loss": {
                "mean": 2 - mean,
                "interval": [1.9 - mean, 2.1 - mean],
                "against_base": None if change is None else loss,
                "against_best": None,
            },
        },
        "tokens": {"prompt": 412.4, "answer": 96.2, "total": 508.6},
        "examples_in_prompt": 0.0,
        "documents_in_prompt": 2.9,
        "answers_cut": 1,
        "answers_citing": 41,
        "latency_seconds": {
            "calls": 10, "median": 1.21, "p95": 2.4, "first_token": 0.13, "search": 0.0002,
        },
        "calls_per_second": 4.4,
        "cost_per_1000_calls": cost,
        "setup": {"seconds": {"training": 5_900.0}, "cost": setup},
    }  # fmt: skip


def answers_told() -> list[dict[str, Any]]:
    """Lines of compare_answers.jsonl."""
    questions = ("What is asthma?", HOSTILE, RIGHT_TO_LEFT, ODD, LONG)
    return [
        {
            "index": index,
            "where": f"{HOSTILE}.jsonl:{index + 1}",
            "question": question,
            "reference": f"A chronic disease. {HOSTILE}",
            "ways": {
                name: {
                    "answer": f"It is {name} [1]. {HOSTILE}",
                    "scores": {"token_f1": (place + 1) * (index + 1) / 30},
                    "prompt_tokens": 40,
                    "answer_tokens": 12,
                    "examples": 0,
                    "sources": [
                        {"number": 1, "source": f"{HOSTILE}.md:4", "score": 3.2, "text": LONG},
                        {"number": 2, "source": "b.md:9", "score": 1.1},
                    ]
                    if "retrieval" in name
                    else [],
                }
                for place, name in enumerate(TITLES)
            },
        }
        for index, question in enumerate(questions)
    ]
