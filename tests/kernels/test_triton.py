"""The Triton backend as a machine without a GPU can see it: interpreted, compiled, and not chosen.

The kernels' own tests (test_triton_*.py) are marked `gpu`. They run on a CUDA device, and from here
in Triton's interpreter: it has to be chosen before the kernels are defined, so in a process of its
own, whose report is that of a case that fails.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorakit.kernels import dispatch
from tests.kernels.op_arguments import EXACT, ONLY_ON_CPUS, arguments_of_any, launches_of


def test_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *Path(__file__).parent.glob("test_triton_*.py")],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " skipped" not in done.stdout


@pytest.mark.parametrize("name", sorted(dispatch.OPS.keys() - ONLY_ON_CPUS))
def test_compiles_for_a_gpu(name: str, ops, monkeypatch, tmp_path: Path) -> None:
    """To machine code of an H100, which needs no GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    op = getattr(ops, name)
    seen = launches_of(op, monkeypatch, launch=lambda *arguments, **options: None)
    shape = (4, 128 if name == "rotary" else 1 << 14)  # the widest head, the widest hidden state
    op(*arguments_of_any(name, shape, torch.device("cpu"), torch.bfloat16))
    ((kernel, _, *arguments), options) = seen[0]
    compiled = compiled_for_a_gpu(kernel, arguments, options)
    code = compiled.asm["sass"]
    assert "EXIT" in code
    assert "STL" not in code  # no register is spilled
    if name in EXACT | {"keyed_dropout"}:
        # What is added to a product is added to the rounded one, and small numbers stay.
        assert "FFMA" not in code and "FTZ" not in code
    if name not in {"dequantize_scales", "column_dots"}:  # which give float32
        assert "cvt.rn.bf16" in compiled.asm["ptx"]  # the hardware's rounding


def compiled_for_a_gpu(kernel: object, arguments: list, options: dict):
    """What Triton makes of a launch on tensors that lie as PyTorch allocates them."""
    import triton
    from triton.backends.compiler import GPUTarget

    from lorakit.kernels.triton import launching

    types = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int64: "i64", torch.uint8: "u8"}
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | options
    signature, constants, aligned = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[(place,)] = value
            continue
        if torch.is_tensor(value):
            signature[parameter.name] = f"*{types[value.dtype]}"
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
        if torch.is_tensor(value) or value % 16 == 0:
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    return triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options=launching.compile_options(options["tile"]),
    )


def test_why_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from lorakit.kernels.triton import launching

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert launching.why_unavailable() == "PyTorch finds no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"number {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9 - 2 * index, 0))
    assert launching.why_unavailable() == "number 1 is older than compute capability 8.0"
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert dispatch._why_no_triton() == "triton is not installed (pip install 'lorakit[gpu]')"


def test_without_a_gpu_the_reference_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "_why_no_triton", lambda: "no reason")
    dispatch._backend.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            names = {dispatch.backend_name(torch.device("cuda")) for _ in range(3)}
    finally:
        dispatch._backend.cache_clear()
    assert names == {"reference"}
    assert [r.getMessage() for r in caplog.records] == [
        "no reason, so ops on the GPU run as plain PyTorch"
    ]
