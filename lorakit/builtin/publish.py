"""Turn a finished pretraining run into the shipped folder: weights, tokenizer, log and model card.

`python -m lorakit.builtin.publish --run DIR --shared-data DIR` measures what the card says.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from lorakit.builtin import blocks, corpus, model_folder, weights
from lorakit.builtin.arithmetic import is_held_out
from lorakit.builtin.copying import look_up, ordered
from lorakit.builtin.document import Document, chat
from lorakit.builtin.shared_sources import plain_question, read_rows
from lorakit.files import write_atomically

# Every how many steps a line of the training log is kept; held-out losses are kept all.
THINNING = 10
QUESTIONS = (
    "What is asthma?",
    "What are the symptoms of type 2 diabetes?",
    "How is high blood pressure treated?",
    "What causes migraine?",
    "When is pneumonia an emergency?",
    "What are the symptoms of Down syndrome?",
    "What are the treatments for Sleep Apnea?",
    "Is cystic fibrosis inherited?",
    "What is the outlook for Tinnitus?",
    "A patient has fever, cough and chest pain. What could it be?",
    "Hello!",
    "Name three fruits.",
    "What is the capital of France?",
    "Put this sentence into the past tense: The nurse measures the pulse.",
    "Emma Brown weighs 62 kg. The pulse is 88 per minute. Emma Brown takes ramipril.\n\n"
    "Give the weight and the drug as JSON.",
    "On Friday Omar went to Oslo and ate soup there. Where did Omar go?",
    "Why is the sky blue?",
    "Write a short poem about the sea.",
    "What is 4 + 5?",
    "What is 23 + 45?",
    "Calculate 81 - 27.",
    "Ivy has 7 apples and gets 6 more. How many apples does Ivy have now?",
)


def publish(run: Path, shared: Path, folder: Path, *, num_sums: int = 200) -> None:
    """Write the shipped folder from a run's `model` and `log.jsonl`.

    Args:
        run: the output folder of a finished pretraining.
        shared: folder of the public data, for losses on rows that nothing was trained on.
        folder: is emptied and filled.
        num_sums: sums of each kind, and copying tasks, that the model is asked.
    """
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32).eval()
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = test_losses(run, shared, tokenizer)
    correct = [
        share_of_sums(model, tokenizer, range(1, 10), num_sums, held_out=False),
        share_of_sums(model, tokenizer, range(10, 100), num_sums, held_out=True),
    ]
    copied = [share_copied(model, tokenizer, task, num_sums) for task in (look_up, ordered)]
    samples = [(question, answer(model, tokenizer, question)) for question in QUESTIONS]
    shutil.rmtree(folder, ignore_errors=True)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    last = max(index for index, r in enumerate(records) if "tokens" in r)
    kept = [
        record
        for index, record in enumerate(records)
        if "held_out" in record or record["step"] % THINNING == 0 or index == last
    ]
    log = "".join(json.dumps(record) + "\n" for record in kept)
    write_atomically(folder / "training_log.jsonl", log.encode())
    card = model_card(
        records,
        losses,
        correct,
        copied,
        samples,
        parameters=num_parameters(model),
        num_sums=num_sums,
    )
    write_atomically(folder / "README.md", card.encode())


def test_losses(run: Path, shared: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Mean loss on test sets whose rows and topics were never trained."""
    trained = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    reader = weights.new_model(LlamaConfig.from_pretrained(run / "model"), seed=0)
    reader.load_state_dict(trained.state_dict())
    medquad = [
        chat(plain_question(row["question"]), row["answer"])
        for row in read_rows(shared / "medquad" / "small_test_300.jsonl")
    ]
    gsm8k = [
        chat(row["question"], re.sub(r"<<.*?>>", "", row["answer"]).partition("####")[0].strip())
        for row in read_rows(shared / "instruct" / "gsm8k_test.jsonl")[:300]
    ]
    return {
        "MedQuAD small_test_300 (unseen topics)": mean_loss(reader, tokenizer, medquad),
        "GSM8K test, first 300": mean_loss(reader, tokenizer, gsm8k),
    }


def mean_loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, documents: Iterable[Document]
) -> float:
    """Mean negative log-likelihood per token of whole documents, each by itself."""
    total, count = 0.0, 0
    encoded = [blocks.encode(document, tokenizer) for document in documents]
    with torch.no_grad():
        for batch in blocks.batches(encoded, 4096):
            tokens = len(batch.tokens) - len(batch.lengths)
            total += weights.batch_loss(model, batch).item() * tokens
            count += tokens
    return total / count


def share_of_sums(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    numbers: range,
    num_sums: int,
    *,
    held_out: bool,
) -> float:
    """Share of random sums of two of `numbers` whose greedy answer is right.

    Args:
        held_out: only sums that were never trained (of one digit there are too few of them).
    """
    rng, right, asked = random.Random("sums"), 0, 0
    while asked < num_sums:
        left, other = rng.choice(numbers), rng.choice(numbers)
        if held_out and not is_held_out(left, other, "+"):
            continue
        asked += 1
        reply = answer(model, tokenizer, f"What is {left} + {other}?", max_new_tokens=60)
        written = re.findall(r"\d+", reply)
        right += bool(written) and int(written[-1]) == left + other
    return right / asked


def share_copied(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    task: Callable[[random.Random], Document],
    count: int,
) -> float:
    """Share of answers to tasks drawn anew that are right to the letter."""
    rng, right = random.Random("copied"), 0
    for _ in range(count):
        (_, question), (_, wanted) = task(rng).turns
        right += answer(model, tokenizer, question).strip() == wanted.strip()
    return right / count


def answer(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    *,
    max_new_tokens: int = 120,
) -> str:
    """The greedy answer to one question, without the end token."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    # transformers types `generate` for a protocol that its own models do not declare.
    made = cast(Any, model).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


def num_parameters(model: LlamaForCausalLM) -> int:
    """Parameters, the tied head counted once."""
    return sum(weight.numel() for weight in model.parameters())


def model_card(
    records: list[dict[str, object]],
    losses: dict[str, float],
    correct: list[float],
    copied: list[float],
    samples: list[tuple[str, str]],
    *,
    parameters: int,
    num_sums: int,
) -> str:
    """The text of README.md, from `card.md` and what was measured."""
    last = [record for record in records if "tokens" in record][-1]
    held_out = next(record["held_out"] for record in reversed(records) if "held_out" in record)
    assert isinstance(held_out, dict)
    rows = [
        " | ".join(
            ["", part]
            + [f"{mixture.get(part, 0):.1%}" for mixture in corpus.MIXTURES.values()]
            + [f"{held_out[part]:.2f}", ""]
        ).strip()
        for part in corpus.PARTS
        if part in held_out
    ]
    return (
        (Path(__file__).parent / "card.md")
        .read_text()
        .format(
            parameters=f"{parameters:,}",
            tokens=f"{last['tokens']:,}",
            steps=last["step"],
            minutes=round(float(str(last["seconds"])) / 60),
            parts="\n".join(rows),
            tests="\n".join(f"| {name} | {loss:.2f} |" for name, loss in losses.items()),
            one_digit=f"{correct[0]:.0%}",
            two_digits=f"{correct[1]:.0%}",
            looked_up=f"{copied[0]:.0%}",
            in_order=f"{copied[1]:.0%}",
            num_sums=num_sums,
            samples="\n\n".join(sample(*pair) for pair in samples),
        )
    )


def sample(question: str, reply: str) -> str:
    """One question as a quotation and its answer as it came."""
    quoted = "\n".join(f"> {line}".rstrip() for line in question.split("\n"))
    shown = "\n".join(f"    {line}".rstrip() for line in reply.split("\n"))
    return f"{quoted}\n\n{shown}"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished pretraining")
    parser.add_argument("--shared-data", type=Path, required=True, help="folder of the public data")
    parser.add_argument("--output", type=Path, default=model_folder(), help="folder to fill")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    publish(given.run, given.shared_data, given.output)


if __name__ == "__main__":
    main()
