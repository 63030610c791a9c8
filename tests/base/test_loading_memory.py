"""Loading takes what is stored plus one tensor, measured in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit.base.write_quantized import PackSettings, quantize_folder
from tests import tiny

# What the allocator keeps (seen to vary by 10 MB), a chunk's temporaries, late imports.
ALLOWANCE_BYTES = 32 << 20

SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from lorakit.base.load import load_base
torch.set_num_threads(1)
tiny, big, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

load_base(tiny, dtype=torch.float32, device="cpu", **options)  # imports and pools
Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present
before = status("VmRSS")
model, _ = load_base(big, dtype=torch.float32, device="cpu", **options)
tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
print(json.dumps({
    "peak": status("VmHWM") - before,
    "stored": sum(t.numel() * t.element_size() for t in tensors.values()),
    "dense": sum(p.stat().st_size for p in Path(big).glob("*.safetensors")),
}))
"""


def measured(tiny_folder: Path, big: Path, **options: object) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_folder), str(big), json.dumps(options)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    return json.loads(done.stdout)


def tiny_folder_packed(tiny_folder: Path, tmp_path: Path) -> Path:
    quantize_folder(tiny_folder, tmp_path / "tiny-packed", PackSettings("nf4"))
    return tmp_path / "tiny-packed"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_is_what_is_stored_plus_one_tensor(tiny_folder: Path, tmp_path: Path) -> None:
    big = tiny.folder(tmp_path / "big", **SIZES)
    one_tensor = SIZES["hidden_size"] * SIZES["intermediate_size"] * 4
    packed = tmp_path / "packed"
    quantize_folder(big, packed, PackSettings("nf4"))
    stored = measured(tiny_folder_packed(tiny_folder, tmp_path), packed, quantization="checkpoint")
    assert stored["peak"] < stored["stored"] + one_tensor + ALLOWANCE_BYTES
    for options in (
        {"quantization": "nf4"},
        {"quantization": "int8"},
        {"quantization": "nf4", "double_quantization": False},
        {"quantization": "none"},
        {"quantization": "none", "offload": "disk", "max_device_memory": "60MB"},
        {"quantization": "nf4", "offload": "disk", "max_device_memory": "20MB"},
    ):
        found = measured(tiny_folder, big, **options)
        print(options, {name: f"{value / 1e6:.1f} MB" for name, value in found.items()})
        assert found["dense"] > 200e6
        assert found["peak"] < found["stored"] + one_tensor + ALLOWANCE_BYTES


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_with_experts_is_what_is_stored_plus_one_fused_tensor(tmp_path: Path) -> None:
    # Each part is larger than the 32 MB that glibc keeps when they are freed.
    sizes = {"hidden_size": 1024, "intermediate_size": 8400, "num_local_experts": 4}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 2}
    big = tiny.folder(tmp_path / "big", "mixtral", **sizes, **heads)
    small = tiny.folder(tmp_path / "small", "mixtral", num_local_experts=2)
    fused = 4 * 2 * 8400 * 1024 * 4
    for quantization in ("none", "nf4", "int8"):
        found = measured(small, big, quantization=quantization)
        print(quantization, {name: f"{value / 1e6:.1f} MB" for name, value in found.items()})
        assert found["peak"] < found["stored"] + fused + 2 * ALLOWANCE_BYTES
