"""What code and tables of libraries take of a CPU's memory, beside all tensors.

Counted as resident memory beyond what the interpreter held after all imports: code is read when it
first runs. Most of it is LLVM and numba, which run the compiled ops. It does not depend on the
model's size, so a model of next to nothing shows it: `benchmarks/plan_libraries.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from lorakit.recipe.quantizations import BLOCKWISE

# PyTorch's code for reading tensors.
READING = 11 << 20
# That, and the compiled ops that pack.
PACKING = 114 << 20
# All of it while passes are made, with the buffers of MKL that large products take.
COMPUTING = 145 << 20
# What `lorakit train` holds from before its first step: modules and tables of the rules of `check`,
# of the plan, of the report. `benchmarks/real_data.py` measures whole runs.
BEFORE_TRAINING = 36 << 20
# Rows of a set that the rules of `check` read, at most; of larger sets that many, evenly spread.
MAX_ROWS_READ = 30_000
# What a row that was read leaves: memory that Python has free and the system does not get back,
# for it goes back in pieces of 1 MiB, and one small object that stays keeps a piece. Measured on
# MedQuAD, tokenized in the run: 104 MiB of 14,900 rows, and 12 in the C library.
LEFT_BY_ROW = 8 << 10


def libraries_of_loading(quantization: str) -> int:
    """Bytes while a base is loaded.

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
