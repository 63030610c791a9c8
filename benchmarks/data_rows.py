"""What the sides of `data_peers.py` share: rows, a tokenizer with a chat template, and a clock."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import psutil
from contest import Memory
from transformers import AutoTokenizer, PreTrainedTokenizerBase

# Without its own template a tokenizer gets ChatML, the most common one.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer with a chat template; what it loads lazily is loaded."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.chat_template is None:
        special = ["<|im_start|>", "<|im_end|>"]
        tokenizer.add_special_tokens({"additional_special_tokens": special})
        tokenizer.chat_template = CHATML
    tokenizer("warm")
    return tokenizer


def read(path: str | Path) -> list[dict[str, Any]]:
    """Questions and answers of a JSONL file."""
    with Path(path).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def sample(data: Path, count: int, path: Path) -> Path:
    """A file of `count` of the rows, drawn at random."""
    return _written(path, random.Random(0).sample(read(data), count))


def grown(data: Path, count: int, characters: int, path: Path) -> Path:
    """A file of `count` different rows with the first `characters` of the answers."""
    rows = read(data)
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            row = rows[i % len(rows)]
            answer = f"{row['answer'][:characters]} ({i})"
            file.write(json.dumps({"question": row["question"], "answer": answer}) + "\n")
    return path


def _written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Clock:
    """Wall and CPU time, that of child processes included, since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = _cpu_seconds(), time.perf_counter()

    def result(self, rows: int, tokens: int) -> dict[str, float]:
        """What was measured of `rows` rows that became `tokens` tokens."""
        seconds = time.perf_counter() - self._wall
        return {
            "seconds": seconds,
            "cpu_seconds": _cpu_seconds() - self._cpu,
            "rows": rows,
            "tokens": tokens,
            "peak_bytes": Memory().peak(),
        }


def _cpu_seconds() -> float:
    """Of this process and its children, the running ones too."""
    me = psutil.Process()
    running = sum(sum(child.cpu_times()[:2]) for child in me.children(recursive=True))
    return sum(me.cpu_times()[:4]) + running
