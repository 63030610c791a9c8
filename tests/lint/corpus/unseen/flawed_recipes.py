"""Sound data under recipes with one thing wrong."""

from __future__ import annotations

from typing import Any, Literal

from tests.lint.corpus.unseen.case import Case, Row, alpaca, messages, pair, recipe, sets
from tests.lint.corpus.unseen.sound import DESK
from tests.lint.corpus.unseen.worlds import (
    bulletins,
    claims,
    french,
    garden,
    german,
    places,
    reports,
    shop,
    style,
    tickets,
)


def cases() -> list[Case]:
    return [
        _rate_far_too_high(),
        _rate_far_too_low(),
        _eighty_epochs(),
        _alpha_out_of_proportion(),
        _two_steps_in_all(),
        _prompts_trained_too(),
        _most_rows_too_long(),
        _pattern_that_fits_everything(),
        _answers_cut_in_evaluation(),
        _nothing_held_out(),
    ]


def _flawed(
    name: str,
    flaw: str,
    severity: Literal["error", "warning"],
    recipe: dict[str, Any],
    rows: dict[str, list[Row]],
) -> Case:
    return Case(name, flaw, "recipe", severity, recipe, rows)


def _rate_far_too_high() -> Case:
    return _flawed(
        "rate_far_too_high",
        "A learning rate of 0.05 makes a LoRA run with Adam diverge within a few steps.",
        "error",
        recipe(train={"learning_rate": 0.05}),
        sets(garden.near, garden.far, 300).rows(pair),
    )


def _rate_far_too_low() -> Case:
    return _flawed(
        "rate_far_too_low",
        "A learning rate of 1e-7 leaves the adapter where it began: the tuned model is the base.",
        "warning",
        recipe(train={"learning_rate": 1e-7}),
        sets(style.near, style.far, 310).rows(alpaca("Make this message formal.")),
    )


def _eighty_epochs() -> Case:
    return _flawed(
        "eighty_epochs",
        "80 epochs over 200 rows with no early stopping: the answers are learnt by heart.",
        "warning",
        recipe(train={"num_train_epochs": 80}),
        sets(german.near, german.far, 320, train=200).rows(pair),
    )


def _alpha_out_of_proportion() -> Case:
    return _flawed(
        "alpha_out_of_proportion",
        "lora_alpha 1024 at rank 8 scales the adapter by 128, so training is unstable.",
        "warning",
        recipe(adapter={"r": 8, "lora_alpha": 1024}),
        sets(bulletins.near, bulletins.far, 330).rows(lambda exchange: {"text": exchange.prompt}),
    )


def _two_steps_in_all() -> Case:
    return _flawed(
        "two_steps_in_all",
        "A batch of 512 is larger than the set of 300 rows: two epochs are two optimizer steps.",
        "warning",
        recipe(train={"batch_size": 512, "num_train_epochs": 2, "logging_steps": 1}),
        sets(french.near, french.far, 340).rows(pair),
    )


def _prompts_trained_too() -> Case:
    evaluate = {"metrics": ["loss", "perplexity"], "max_new_tokens": None}
    return _flawed(
        "prompts_trained_too",
        "trained: all puts the loss on long prompts, so that the one-word answers hardly count.",
        "warning",
        recipe(data={"trained": "all"}, evaluate=evaluate),
        sets(claims.near, claims.far, 350).rows(pair),
    )


def _most_rows_too_long() -> Case:
    return _flawed(
        "most_rows_too_long",
        "max_length is so short that most rows are dropped, and max_dropped is raised to allow it.",
        "warning",
        recipe(data={"max_length": 86, "max_dropped": 0.95}),
        sets(places.near, places.far, 360).rows(
            lambda exchange: {
                "context": exchange.facts["context"],
                "question": exchange.prompt,
                "answer": exchange.answer,
            }
        ),
    )


def _pattern_that_fits_everything() -> Case:
    evaluate = {
        "metrics": ["loss", "regex"],
        "primary": {"in_domain": "regex", "out_of_domain": "regex", "retention": "loss"},
        "regex": ".*",
        "max_new_tokens": 16,
    }
    return _flawed(
        "pattern_that_fits_everything",
        "The verdict rests on a regular expression that every answer matches.",
        "warning",
        recipe(evaluate=evaluate),
        sets(tickets.near, tickets.far, 370).each(tickets.templated).rows(pair),
    )


def _answers_cut_in_evaluation() -> Case:
    evaluate = {
        "metrics": ["loss", "rouge_l"],
        "primary": {"in_domain": "rouge_l", "out_of_domain": "rouge_l", "retention": "loss"},
        "max_new_tokens": 8,
    }
    return _flawed(
        "answers_cut_in_evaluation",
        "max_new_tokens 8 cuts every summary off after a few words before it is scored.",
        "warning",
        recipe(evaluate=evaluate),
        sets(reports.near, reports.far, 380).rows(alpaca("Summarise the report.")),
    )


def _nothing_held_out() -> Case:
    rows = sets(shop.near, shop.far, 390).rows(
        lambda exchange: messages(shop.turns(exchange), DESK)
    )
    whole = recipe(data={"validation": None})
    del whole["evaluate"]
    return _flawed(
        "nothing_held_out",
        "No validation and no evaluation set at all: nothing can show whether the run helped.",
        "warning",
        whole,
        {"train": rows["train"]},
    )
