"""The peak of memory: what is counted, and from when on."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: the peak of this one is that of all tests before.
SCRIPT = """
import torch
from lorakit.train.memory import forget_peak, peak_bytes
cpu = torch.device("cpu")
held = torch.ones(8 << 20)  # 32 MiB
released = torch.ones(64 << 20)  # 256 MiB
before = peak_bytes(cpu)
del released
forget_peak(cpu)
print(before >> 20, peak_bytes(cpu) >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a peak begin anew")
def test_a_peak_begins_anew_from_what_is_held() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert before >= 288
    assert 32 <= after < before - 200
