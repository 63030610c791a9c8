"""Numbers and names as people read them."""

from __future__ import annotations

from markupsafe import Markup

from lorakit import sizes
from lorakit.data.variants import names, source_and_variant, variant
from lorakit.recipe.warm_start import TRAIN_SET

LEAST_COST = 0.001
MINUS = "\u2212"
NOT_KNOWN = "not known"
SET_NAMES = {
    "in_domain": "In-domain",
    "out_of_domain": "Out-of-domain",
    "retention": "Retention",
    "train": "Train",
    "validation": "Validation",
    TRAIN_SET: "Warm start",
}
SET_MEANINGS = {
    "in_domain": "rows like those it was trained on, but never seen",
    "out_of_domain": "the same task in other words or on other topics",
    "retention": "what the base could do before, and should still do",
}
METRIC_NAMES = {
    "kl": "KL to the base",
    "token_f1": "token F1",
    "section_f1": "section F1",
    "rouge_l": "ROUGE-L",
    "json_schema": "JSON schema",
    "content": "content score",
    "regex": "regular expression",
    "choice": "multiple choice",
    "choice_text": "choice by text",
    "choice_text_bytes": "choice by text, per byte",
    "choice_text_tokens": "choice by text, per token",
    "math": "mathematics",
    "win_rate": "win rate",
}
PART_NAMES = {
    "quantization_constants": "quantization scales",
    "on_its_way": "an offloaded weight on its way",
    "optimizer": "optimizer state",
    "being_packed": "the largest tensor while it is read",
    "working": "working memory of the pass",
    "new_values": "new values of the optimizer",
    "dense_copies": "weights kept unpacked too",
    "whole_pass": "activations and working memory of its pass",
    "forward_pass": "forward pass",
    "holes": "holes of the heap",
    "answer_weights": "weights made dense for generation",
    "kv_cache": "keys and values of generation",
    "libraries": "code of libraries",
    "rows": "rows of the data",
    "context": "the GPU's context",
    "answers_at_most": "answers, at most",
    "rollouts_at_most": "completions",
    "policy_at_most": "training on completions",
    "start": "start: loading and data",
    "rehearsal": "largest passes, tried first",
    "lora": "LoRA, 16-bit",
    "qlora": "QLoRA, NF4",
    "full": "full, 16-bit",
}
LM_EVAL = "lm_eval/"  # what the sets that are tasks of lm-eval begin with
# What HTML cannot hold, and half characters, become visible replacements.
_CONTROLS = {
    code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n\r"
} | dict.fromkeys([*range(0x7F, 0xA0), *range(0xD800, 0xE000)], "\ufffd")


def printable(value: object) -> object:
    """The text of a file as a page can hold it; markup of our own and other values unchanged."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.translate(_CONTROLS)
    return value


def set_name(name: str) -> str:
    """`In-domain`; `In-domain, with typos` for a set whose prompts are said otherwise."""
    if name.startswith(LM_EVAL):  # the task as lm-eval names it
        return f"lm-eval: {name.removeprefix(LM_EVAL)}"
    of = source_and_variant(name)
    if of is None:
        return SET_NAMES.get(name, name.replace("_", " "))
    source, how = of
    return f"{set_name(source)}, {_how(how)}"


def _how(name: str) -> str:
    """What was done to prompts; a page may show a run of a lorakit that has other variants."""
    return variant(name).SUMMARY if name in names() else name.replace("_", " ")


def p_words(value: float) -> str:
    """A p-value: `p 0.034`, `p < 0.001`; it is never broken into two lines."""
    return "p\u00a0<\u00a00.001" if value < 0.001 else f"p\u00a0{value:.3f}"


def metric_name(name: str) -> str:
    """`mathematics`; `mathematics pass@4` for one of sampled answers."""
    scorer, _, rest = name.partition("/")
    if "@" in rest:
        return f"{metric_name(scorer)} {rest}"
    return METRIC_NAMES.get(name, name.replace("_", " "))


def part_name(name: str) -> str:
    """A part of memory or time, a moment of a run, or a method, as people read it."""
    return capital(PART_NAMES.get(name, name.replace("_", " ")))


def capital(text: str) -> str:
    """The text with its first letter as a sentence begins."""
    return text[:1].upper() + text[1:]


def count(number: int | None) -> str:
    """12345 -> `12,345`."""
    return NOT_KNOWN if number is None else f"{number:,}"


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def amount(number: float | None) -> str:
    """A metric's value: about four significant figures, at most four decimals."""
    if number is None:
        return "beyond a number"
    return _plain(number, "").replace("-", MINUS)


def cost(number: float) -> str:
    """Of money or seconds: an amount, but for less than anybody pays for."""
    return f"< {LEAST_COST:g}" if 0 < number < LEAST_COST else amount(number)


def change(number: float | None) -> str:
    """A difference, with its sign."""
    if number is None:
        return "beyond a number"
    return _plain(number, "+").replace("-", MINUS)


def _plain(number: float, sign: str) -> str:
    if abs(number) >= 1e6 or 0 < abs(number) < 1e-4:
        return f"{number:{sign}.2e}"
    whole = len(str(int(abs(number))))
    decimals = 4 if 0 < abs(number) < 0.1 else max(0, 4 - whole)
    return f"{number:{sign},.{decimals}f}"


def interval(low: float | None, high: float | None) -> str:
    return f"{change(low)} to {change(high)}"


def bounds(low: float, high: float) -> str:
    """Of a value, where `interval` is of a difference: without signs."""
    return f"{amount(low)} to {amount(high)}"


def share(part: float, whole: float) -> str:
    """`12.3 %`; `0 %` of nothing."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.2f} %" if 0 < percent < 1 else f"{percent:.1f} %"


def size(num_bytes: int | None) -> str:
    """Bytes: `1.50 GiB`."""
    return NOT_KNOWN if num_bytes is None else sizes.size(num_bytes)


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return NOT_KNOWN
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
