"""What the contests work on: models of a real one's shape with random weights, and rows of random
tokens. Speed and memory depend on shapes, not on values.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from contest import at_least_one, contest_parser
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config
from transformers.models.llama import LlamaForCausalLM
from transformers.models.qwen2 import Qwen2ForCausalLM

ROWS_PER_STEP = 8
ROW_KINDS = ("short", "long", "brief")
PROMPT_LENGTHS = (12, 40)
# Log-normal, of which the middle is 128 tokens: 162 on average once the longest are cut to 512.
ANSWER_MIDDLE, ANSWER_SIGMA, LONGEST_ANSWER = 128, 0.8, 512
LONG_ROW, BRIEF_ANSWER = 1024, 16

PAD_ID = 0
FIRST_ID = 2  # 0 pads and 1 ends, as the peer's tokenizer has to have them

CONFIGS: dict[str, PreTrainedConfig] = {
    # The built-in base's, 3.75 million parameters.
    "builtin": LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=448,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "qwen2.5-0.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    ),
    "tiny": LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
}
_CLASSES = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM}


@dataclass(frozen=True)
class Row:
    """One tokenized row: a prompt, and an answer that is trained.

    Attributes:
        input_ids: int32 (T,).
        prompt: how many of them are the prompt's.
    """

    input_ids: np.ndarray
    prompt: int

    @property
    def labels(self) -> list[int]:
        """As the peers want them: -100 where nothing is trained."""
        return [-100] * self.prompt + self.input_ids[self.prompt :].tolist()


def training_parser(description: str | None) -> argparse.ArgumentParser:
    """What contests of training can be told: pairs, threads, what to train, and how long."""
    parser = contest_parser(description)
    parser.add_argument("--shape", choices=CONFIGS, default="smollm2-135m")
    parser.add_argument("--rows", choices=ROW_KINDS, default="short")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a measurement")
    parser.add_argument("--warmup", type=at_least_one, default=1, help="steps before them")
    parser.add_argument("--workdir", type=Path, help="where models are kept for the next time")
    return parser


def save_model(shape: str, folder: Path, dtype: torch.dtype) -> None:
    """Write the model of that shape, unless `folder` has one; the last file to appear is whole."""
    if (folder / "config.json").is_file():
        return
    config = CONFIGS[shape]
    config.pad_token_id, config.bos_token_id, config.eos_token_id = PAD_ID, None, 1
    torch.manual_seed(0)
    model = _CLASSES[config.model_type](config).to(dtype)
    staged = folder.with_name(f"{folder.name}.staged")
    model.save_pretrained(staged)
    staged.rename(folder)


def make_rows(kind: str, num_steps: int, vocabulary: int, seed: int = 0) -> list[Row]:
    """`num_steps` times 8 rows; of the same seed the first steps are the same.

    Args:
        kind: "short" (prompts 12 to 40, answers log-normal up to 512), "long" (1,024 tokens), or
            "brief" (answers of up to 16), for trying a contest out.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(num_steps * ROWS_PER_STEP):
        prompt = int(generator.integers(PROMPT_LENGTHS[0], PROMPT_LENGTHS[1] + 1))
        drawn = np.exp(generator.normal(np.log(ANSWER_MIDDLE), ANSWER_SIGMA))
        answer = int(np.clip(drawn, 1, BRIEF_ANSWER if kind == "brief" else LONGEST_ANSWER))
        length = LONG_ROW if kind == "long" else prompt + answer
        ids = generator.integers(FIRST_ID, vocabulary, length).astype(np.int32)
        rows.append(Row(ids, prompt))
    return rows


def steps_of(rows: list[Row]) -> list[list[Row]]:
    """The rows of each optimizer step."""
    return [rows[i : i + ROWS_PER_STEP] for i in range(0, len(rows), ROWS_PER_STEP)]


def num_tokens(rows: list[Row]) -> int:
    """Tokens, padding not counted."""
    return sum(len(row.input_ids) for row in rows)
