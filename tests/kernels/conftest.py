"""The Triton backend and where it runs: on a CUDA device, or interpreted on the CPU in a process
that was started with TRITON_INTERPRET=1 (see test_triton.py).
"""

from __future__ import annotations

import os
from types import ModuleType

import pytest
import torch

from lorakit.kernels import dispatch


@pytest.fixture
def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def ops() -> ModuleType:
    """The backend's ops, whatever dispatch would choose."""
    pytest.importorskip("triton", reason="triton is not installed")
    from lorakit.kernels.triton import ops

    return ops


@pytest.fixture
def device(ops: ModuleType, interpreted: bool) -> torch.device:
    """Where kernels run; every op dispatched for that device is Triton's."""
    return torch.device("cpu" if interpreted else "cuda")


@pytest.fixture
def dispatched(
    ops: ModuleType, device: torch.device, interpreted: bool, monkeypatch: pytest.MonkeyPatch
) -> torch.device:
    """The same device, with the backend behind dispatch."""
    if interpreted:
        monkeypatch.setattr(dispatch, "_backend", lambda device_type: ops)
    return device
