"""The recipe to begin with: commented as `lorakit new` writes them, with the answers filled in."""

from __future__ import annotations

from dataclasses import dataclass

from lorakit.plan.advise.questions import Answers, Hardware, Measure
from lorakit.recipe.sections.section import LARGEST_COUNT

MONTHS = 12  # that training and indexing are spread over


@dataclass(frozen=True)
class Start:
    """A base that trains on some hardware."""

    model: str
    quantization: str
    max_length: int
    why: str


# Bases of one family in four sizes, which reads some hundred languages.
STARTS: dict[Hardware, Start] = {
    "cpu": Start(
        "Qwen/Qwen3-0.6B",
        "none",
        1024,
        "Small enough to train without a GPU. `builtin` is smaller still and only to try it out.",
    ),
    "8gb": Start(
        "Qwen/Qwen3-4B",
        "nf4",
        1024,
        "In 4 bits its weights take about 3 GB; what is left is for activations.",
    ),
    "24gb": Start(
        "Qwen/Qwen3-8B",
        "nf4",
        2048,
        "In 4 bits (arXiv 2305.14314) about 6 GB instead of 16, so that longer rows fit.",
    ),
    "80gb": Start(
        "Qwen/Qwen3-8B",
        "none",
        4096,
        "In 16 bits about 18 GB with LoRA: with this much memory 4 bits would only cost time.",
    ),
}

# (metrics, primary, further lines)
METRICS: dict[Measure, tuple[str, str, str]] = {
    "form": (
        "[loss, json_schema]",
        "json_schema",
        "  # A JSON schema. For headings the metric is outline, for a pattern regex: no file.\n"
        "  json_schema: answer.schema.json\n",
    ),
    "reference": ("[loss, token_f1, rouge_l]", "token_f1", ""),
    "judgement": ("[loss, token_f1, rouge_l]", "loss", ""),
    "unknown": ("[loss, token_f1, rouge_l]", "loss", ""),
}
PRIMARY_SAYS: dict[Measure, str] = {
    "form": "Whether an answer has the form: the share that has it.",
    "reference": "The words that an answer shares with the expert's.",
    "judgement": "Loss stands in for a judgement: read the answers in the report as well.",
    "unknown": "Loss, until it is decided what a good answer is.",
}


def starting_recipe(answers: Answers, *, tune: bool, retrieve: bool) -> str:
    """YAML that `load_recipe` takes, with a comment at every value that may want changing."""
    return "\n".join(
        [
            _head(tune, retrieve),
            _base(answers),
            _adapter(answers),
            _data(answers, with_passages=tune and retrieve),
            _train(answers),
            _evaluate(answers),
            *([_compare(answers, with_passages=tune)] if retrieve else []),
        ]
    )


def _head(tune: bool, retrieve: bool) -> str:
    if tune and retrieve:
        first = (
            "# Tune for how to answer, retrieve for what to answer. Rows hold retrieved passages."
        )
    elif tune:
        first = "# Tune for how to answer."
    elif retrieve:
        first = (
            "# Retrieve, do not tune: this is to compare with, and for a day with more examples."
        )
    else:
        first = "# A good prompt first: this is to compare with, and for the day it is not enough."
    lines = [
        first,
        "#",
        "#   lorakit check RECIPE      reads the data, shows what is trained, trains nothing",
        "#   lorakit plan RECIPE       parameters, memory, steps, from the model's config alone",
    ]
    if not tune:
        lines.append(
            "#   lorakit compare RECIPE    prompt, few-shot and retrieval, measured on your rows"
        )
    else:
        lines.append("#   lorakit train RECIPE      trains, and measures base and tuned")
        lines.append(
            "#   lorakit compare RECIPE    prompt, few-shot, retrieval and tuned, side by side"
        )
    lines.append("# File names are placeholders: put your own.")
    return "\n".join(lines) + "\n"


def _base(answers: Answers) -> str:
    start = STARTS[answers.hardware]
    language = (
        "  # Its card must list your language; else choose another base.\n"
        if answers.language == "other"
        else ""
    )
    return (
        f"base:\n{language}  # {start.why}\n  model: {start.model}\n"
        f"  quantization: {start.quantization}\n"
    )


def _adapter(answers: Answers) -> str:
    far = answers.language == "other"
    r = 32 if far else 16
    why = (
        "32 to 64 for a new domain or language" if far else "16 for style, format and instructions"
    )
    return (
        f"adapter:\n  # {why}.\n  r: {r}\n"
        "  # The branch is scaled by lora_alpha / r: twice r is usual, more destabilizes.\n"
        f"  lora_alpha: {2 * r}\n"
        "  # 0.05 to 0.1 for 1,000 to 100,000 rows; 0.1 to 0.2 under 500.\n"
        f"  lora_dropout: {_dropout(answers.examples)}\n"
        "  # Weight-decomposed LoRA (arXiv 2402.09353).\n  use_dora: true\n"
        "  target_modules: all-linear\n"
    )


def _dropout(examples: int) -> float:
    if examples < 1_000:
        return 0.1
    return 0.05 if examples <= 100_000 else 0.0


def _data(answers: Answers, *, with_passages: bool) -> str:
    rows = (
        "  # JSON lines with prompt (the retrieved passages, then the question) and completion.\n"
        if with_passages
        else "  # JSON lines with prompt and completion, or messages; CSV and parquet work too.\n"
    )
    return (
        f"data:\n{rows}  train: train.jsonl\n  validation: 0.1\n"
        "  # group: topic              # column whose equal values stay on one side of that split\n"
        "  # Tokens per example. Longer rows are dropped whole and counted, never cut.\n"
        f"  max_length: {STARTS[answers.hardware].max_length}\n"
    )


def _train(answers: Answers) -> str:
    return (
        "train:\n  # 3 to 5 under 2,000 rows, 1 to 2 from 50,000.\n"
        f"  num_train_epochs: {_epochs(answers.examples)}\n"
        "  # Examples per optimizer step.\n  batch_size: 8\n"
        "  # 1e-4 to 3e-4; above 5e-4 overshoots. If the loss does not fall in 50 steps: 1e-4.\n"
        "  learning_rate: 2e-4\n  lr_scheduler_type: cosine\n  warmup_ratio: 0.05\n  seed: 42\n"
    )


def _epochs(examples: int) -> int:
    if examples < 2_000:
        return 3
    return 2 if examples < 50_000 else 1


def _evaluate(answers: Answers) -> str:
    metrics, primary, further = METRICS[answers.measure]
    return (
        "evaluate:\n  # Held out first; on topics and in words that train never sees; what the\n"
        "  # base can do today and should still do.\n"
        "  in_domain: test.jsonl\n  out_of_domain: other_topics.jsonl\n  retention: general.jsonl\n"
        f"  metrics: {metrics}\n{further}"
        f"  # {PRIMARY_SAYS[answers.measure]}\n"
        f"  primary: {{in_domain: {primary}, out_of_domain: {primary}, retention: loss}}\n"
        "  # How much retention may lose, in nats per token.\n  margin: 0.05\n"
    )


def _compare(answers: Answers, *, with_passages: bool) -> str:
    twice = (
        "  # Its questions are those of in_domain, and it puts the passages in itself: give it\n"
        "  # rows without (--set evaluate.in_domain=questions.jsonl), or they are there twice.\n"
        if with_passages
        else ""
    )
    return (
        f"compare:\n{twice}"
        "  # What is looked up: a file or a folder (text, Markdown, HTML, JSON lines, CSV).\n"
        "  documents: documents/\n"
        "  # A year of calls, which training and indexing are spread over.\n"
        f"  calls: {min(max(1, MONTHS * answers.calls), LARGEST_COUNT)}\n"
    )
