"""What code and tables of libraries take of a CPU's memory, beside all tensors.

Counted as resident memory beyond what the interpreter held after all imports: code is read when it
first runs. Most of it is LLVM and numba, which run the compiled ops. It does not depend on the
model's size, so a model of next to nothing shows it: `benchmarks/plan_libraries.py`.
"""

from __future__ import annotations

from lorakit.recipe.quantizations import BLOCKWISE

# PyTorch's code for reading tensors.
READING = 11 << 20
# That, and the compiled ops that pack.
PACKING = 114 << 20
# All of it while passes are made, with the buffers of MKL that large products take.
COMPUTING = 145 << 20
# What `lorakit train` holds from before its first step: modules, tables and rows of the rules of
# `check`, of the plan, of the report. `benchmarks/real_data.py` measures whole runs.
BEFORE_TRAINING = 120 << 20


def libraries_of_loading(quantization: str) -> int:
    """Bytes while a base is loaded.

    Args:
        quantization: as in a recipe; "checkpoint" reads what is packed already.
    """
    return PACKING if quantization in BLOCKWISE else READING
