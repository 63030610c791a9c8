"""What code and tables of libraries take of a CPU's memory, beside all tensors.

Counted as `peak_bytes` of metrics.jsonl is, beyond what the interpreter held when `train/memory.py`
was imported: code is read when it first runs. Most of it is LLVM and numba, which run the compiled
ops. It does not depend on the model's size, so a model of next to nothing shows it:
`benchmarks/plan_libraries.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedConfig

from lorakit.recipe.quantizations import BLOCKWISE

# PyTorch's code for reading tensors.
READING = 11 << 20
# That, and the compiled ops that pack.
PACKING = 114 << 20
# All of it while passes are made, with the buffers of MKL that large products take.
COMPUTING = 145 << 20
# Of that numba, LLVM and compiled code, for ops that are none of PyTorch's: a dense base of a
# family whose layers have no fast form, with plain LoRA, calls none.
COMPILER = 43 << 20
# lorakit's own rooms: a run counts from when `train/memory.py` is imported, and most of what
# `finetune` imports comes after it (tests/plan/test_loading.py).
ROOMS = 31 << 20
# A tokenizer, and each of its tokens: stories260K's takes 3 MiB (512 tokens), the builtin base's 7
# (4,096), phi-3-mini's 47 (32,011), gpt2's 37 to 47 (50,257).
TOKENIZER = 2 << 20
TOKENIZER_PER_TOKEN = 1 << 10
# Rows of a set that the rules of `check` read, at most; of larger sets that many, evenly spread.
MAX_ROWS_READ = 30_000
# What a row that was read leaves: memory that Python has free and the system does not get back,
# for it goes back in pieces of 1 MiB, and one small object that stays keeps a piece. Measured on
# MedQuAD, tokenized in the run: 104 MiB of 14,900 rows, and 12 in the C library.
LEFT_BY_ROW = 8 << 10


def held_from_the_start(config: PreTrainedConfig) -> int:
    """Bytes that a run holds from before its base is loaded: rooms, and the tokenizer of a model of
    this config."""
    return ROOMS + TOKENIZER + TOKENIZER_PER_TOKEN * int(config.get_text_config().vocab_size)


def libraries_of_loading(quantization: str) -> int:
    """Bytes while a base is loaded, beside those that are held from the start.

    Args:
        quantization: as in a recipe; "checkpoint" reads what is packed already.
    """
    return PACKING if quantization in BLOCKWISE else READING


def left_by_rows(lengths: Iterable[int]) -> int:
    """Bytes that rows leave behind when they are gone.

    Args:
        lengths: rows of each set.
    """
    return LEFT_BY_ROW * sum(min(length, MAX_ROWS_READ) for length in lengths)
