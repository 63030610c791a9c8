"""The whole way on this machine in about a minute, offline: check, plan, train, evaluate, merge.

The base is a small Llama with random weights and the data are generated, so this shows the way, not
the quality: the loss falls because the model learns what such a sentence looks like. For a real
pretrained model on real data see recipes/medquad_stories260k.yaml.

    .venv/bin/python scripts/demo.py
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path("runs") / "demo"
SEED = 0

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

RECIPE = f"""\
base:
  model: {FOLDER / "base"}
  quantization: nf4
adapter:
  r: 8
  use_dora: true
data:
  train: {FOLDER / "train.jsonl"}
  validation: 0.1
train:
  num_train_epochs: 3
  batch_size: 16
  learning_rate: 5e-3
evaluate:
  in_domain: {FOLDER / "test.jsonl"}
output:
  dir: {FOLDER / "run"}
"""


def main() -> None:
    """Make the base, the data and the recipe, then run every command on them."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    rows = make_rows()
    write_rows(FOLDER / "train.jsonl", rows[:400])
    write_rows(FOLDER / "test.jsonl", rows[400:480])
    make_base(FOLDER / "base", [message["content"] for row in rows for message in row["messages"]])
    recipe = FOLDER / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    print(__doc__.splitlines()[0])
    print(f"Made a base with random weights and generated data in {FOLDER}.")

    lorakit("check", recipe)
    lorakit("plan", recipe)
    lorakit("train", recipe)
    lorakit("evaluate", FOLDER / "run")
    lorakit("merge", FOLDER / "run", "--output", FOLDER / "merged")
    print(f"\nDone. The run is in {FOLDER / 'run'}, the merged model in {FOLDER / 'merged'}.")


def lorakit(*arguments: str | Path) -> None:
    """Run one command as a user would; stop at the first that fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ lorakit {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "lorakit", *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def make_rows() -> list[dict[str, list[dict[str, str]]]]:
    """Every combination of a few facts as a question and an answer in a fixed style, shuffled."""
    complaints = ["cough", "headache", "fever", "rash", "back pain", "nausea", "cramps", "fatigue"]
    durations = ["two days", "a week", "ten days", "a month"]
    ages = ["24", "37", "51", "68", "80"]
    plans = ["rest and fluids", "paracetamol", "a blood test"]
    rows = []
    for complaint, duration, age, plan in itertools.product(complaints, durations, ages, plans):
        question = f"Write a note: age {age}, {complaint} for {duration}, plan {plan}."
        answer = f"S: {complaint} for {duration}. O: {age} years. P: {plan}. Review in one week."
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
            }
        )
    random.Random(SEED).shuffle(rows)
    return rows


def write_rows(path: Path, rows: list[dict[str, list[dict[str, str]]]]) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_base(folder: Path, texts: list[str]) -> None:
    """A Llama of a million random parameters, and a byte-level BPE tokenizer for `texts`."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    transformers.logging.disable_progress_bar()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<pad>", "<s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    main()
