"""Cases that a fair reviewer has nothing to say against."""

from __future__ import annotations

from tests.lint.corpus.unseen.case import (
    Case,
    Row,
    alpaca,
    messages,
    pair,
    recipe,
    sets,
)
from tests.lint.corpus.unseen.grammar import Exchange
from tests.lint.corpus.unseen.worlds import (
    bulletins,
    claims,
    clinic,
    code,
    french,
    garden,
    german,
    places,
    reports,
    shop,
    style,
    tickets,
)

DESK = "You answer for the customer desk. Be brief and friendly, and ask for the number first."
_LABEL = {"in_domain": "exact_match", "out_of_domain": "exact_match", "retention": "loss"}
_OVERLAP = {"in_domain": "rouge_l", "out_of_domain": "rouge_l", "retention": "loss"}


def cases() -> list[Case]:
    return [
        _labels_by_template(),
        _chat_of_several_turns(),
        _json_extraction(),
        _summaries(),
        _questions_on_passages(),
        _yes_and_no(),
        _python_functions(),
        _german_letters(),
        _french_letters(),
        _plain_text(),
        _formal_style(),
        _small_set_of_advice(),
    ]


def _sound(name: str, recipe: dict[str, object], rows: dict[str, list[Row]]) -> Case:
    return Case(name, None, "both", None, recipe, rows)


def _labels_by_template() -> Case:
    """Every prompt is the same template around another ticket; five labels."""
    rows = sets(tickets.near, tickets.far, 100, train=400).each(tickets.templated).rows(pair)
    evaluate = {"metrics": ["loss", "exact_match"], "primary": _LABEL, "max_new_tokens": 16}
    return _sound("labels_by_template", recipe(evaluate=evaluate), rows)


def _chat_of_several_turns() -> Case:
    rows = sets(shop.near, shop.far, 110, train=320).rows(
        lambda exchange: messages(shop.turns(exchange), DESK)
    )
    train = {"num_train_epochs": 2, "learning_rate": 8e-4}
    adapter = {"use_dora": True}
    data = {"train": ["train.jsonl", {"path": "builtin:general", "weight": 0.25}]}
    return _sound("chat_of_several_turns", recipe(adapter=adapter, data=data, train=train), rows)


def _json_extraction() -> Case:
    rows = sets(clinic.near, clinic.far, 120).each(clinic.asked).rows(pair)
    evaluate = {
        "metrics": ["loss", "json_schema", "token_f1"],
        "primary": {"in_domain": "token_f1", "out_of_domain": "token_f1", "retention": "loss"},
        "json_schema": "answer.schema.json",
    }
    train = {"num_train_epochs": 4, "learning_rate": 2e-3}
    whole = recipe(train=train, evaluate=evaluate)
    return Case("json_extraction", None, "both", None, whole, rows, clinic.SCHEMA)


def _summaries() -> Case:
    shape = alpaca("Summarise the report in one or two sentences.")
    rows = sets(reports.near, reports.far, 130).rows(shape)
    evaluate = {"metrics": ["loss", "rouge_l", "content"], "primary": _OVERLAP}
    train = {"batch_size": 16, "num_train_epochs": 4}
    adapter = {"r": 8, "lora_alpha": 16}
    return _sound("summaries", recipe(adapter=adapter, train=train, evaluate=evaluate), rows)


def _questions_on_passages() -> Case:
    rows = sets(places.near, places.far, 140).rows(
        lambda exchange: {
            "context": exchange.facts["context"],
            "question": exchange.prompt,
            "answer": exchange.answer,
        }
    )
    evaluate = {
        "metrics": ["loss", "exact_match", "token_f1"],
        "primary": {"in_domain": "token_f1", "out_of_domain": "token_f1", "retention": "loss"},
        "max_new_tokens": 48,
    }
    return _sound("questions_on_passages", recipe(evaluate=evaluate), rows)


def _yes_and_no() -> Case:
    """Two answers only, each of them right for half of the prompts."""
    rows = sets(claims.near, claims.far, 150, train=400).rows(pair)
    evaluate = {"metrics": ["loss", "exact_match"], "primary": _LABEL, "max_new_tokens": 8}
    return _sound("yes_and_no", recipe(evaluate=evaluate), rows)


def _python_functions() -> Case:
    rows = sets(code.near, code.far, 160).rows(
        lambda exchange: messages([("user", exchange.prompt), ("assistant", exchange.answer)])
    )
    adapter = {"r": 32, "lora_alpha": 64}
    evaluate = {"metrics": ["loss", "rouge_l"], "primary": _OVERLAP, "max_new_tokens": 200}
    return _sound("python_functions", recipe(adapter=adapter, evaluate=evaluate), rows)


def _german_letters() -> Case:
    rows = sets(german.near, german.far, 170).rows(pair)
    train = {"num_train_epochs": 4, "warmup_ratio": None, "warmup_steps": 10}
    return _sound("german_letters", recipe(data={"max_length": 768}, train=train), rows)


def _french_letters() -> Case:
    def shape(exchange: Exchange) -> Row:
        turns = (("human", exchange.prompt), ("gpt", exchange.answer))
        return {"conversations": [{"from": who, "value": text} for who, text in turns]}

    rows = sets(french.near, french.far, 180).rows(shape)
    base = {"quantization": "none"}
    data = {"system": "Vous répondez au courrier de la maison.", "max_length": 768}
    train = {"learning_rate": 5e-4, "num_train_epochs": 4, "lr_scheduler_type": "linear"}
    return _sound("french_letters", recipe(base=base, data=data, train=train), rows)


def _plain_text() -> Case:
    """No chat at all: the bulletins as they are."""
    rows = sets(bulletins.near, bulletins.far, 190).rows(lambda exchange: {"text": exchange.prompt})
    evaluate = {"metrics": ["loss", "perplexity"], "max_new_tokens": None}
    return _sound("plain_text", recipe(evaluate=evaluate), rows)


def _formal_style() -> Case:
    shape = alpaca("Rewrite the message in a formal style.")
    rows = sets(style.near, style.far, 200).rows(shape)
    data = {"train": ["train.jsonl", {"path": "builtin:general", "weight": 0.2}]}
    evaluate = {"metrics": ["loss", "token_f1", "rouge_l"], "primary": _OVERLAP}
    train = {"early_stopping_patience": 2, "num_train_epochs": 5}
    return _sound("formal_style", recipe(data=data, train=train, evaluate=evaluate), rows)


def _small_set_of_advice() -> Case:
    """Few rows, and everything that few rows ask for: dropout, a low rank, a gentle rate."""
    some = sets(garden.near, garden.far, 210, train=210, held_out=100)
    rows = some.rows(lambda exchange: {"question": exchange.prompt, "answer": exchange.answer})
    rows["validation"] = rows["train"][150:]
    rows["train"] = rows["train"][:150]
    adapter = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.15}
    train = {"learning_rate": 5e-4, "num_train_epochs": 4, "weight_decay": 0.01}
    data = {"validation": "validation.jsonl"}
    return _sound("small_set_of_advice", recipe(adapter=adapter, data=data, train=train), rows)
