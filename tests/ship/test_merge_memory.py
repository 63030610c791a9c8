"""A merge takes an output file and a few copies of one parameter, measured in a fresh process; its
proof takes what is free."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.save import save_adapter
from lorakit.base import placement
from lorakit.base.load import load_base
from lorakit.recipe import LoraConfig
from lorakit.ship import verify
from lorakit.ship.merge_folder import merge_folder
from tests import tiny
from tests.adapters.bases import perturb
from tests.tolerances import LOGITS_FLOAT32

# What the allocator keeps, late imports, and what is as large as a row or a chunk.
ALLOWANCE_BYTES = 64 << 20
SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 16384,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
LARGEST_BYTES = 1024 * 16384 * 4  # in float32
# {merge: copies of the largest parameter in float32, the output file's two among them}; see the
# first lines of ship/merge_folder.py.
MERGES = {"faithful": 6, "original": 7, "packed": 7}

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from lorakit.base.write_quantized import PackSettings
from lorakit.ship import merge_folder as merging
torch.set_num_threads(1)
folder, name = Path(sys.argv[1]), sys.argv[2]
options = {
    "faithful": {}, "original": {"into": "original"}, "packed": {"quantize": PackSettings("nf4")}
}[name]

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def merge(size):
    merging.merge_folder(
        folder / size, folder / f"{size}-adapter", folder / f"{size}-{name}",
        quantization="nf4", base_dtype=torch.float32, max_shard_size="20MB", **options,
    )

def peak_before(*given, **options):
    peaks.append(status("VmHWM"))
    return verify(*given, **options)

verify, merging.verify_merge, peaks = merging.verify_merge, peak_before, []
merge("small")  # imports and pools
Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present
before = status("VmRSS")
merge("big")
print(peaks[-1] - before)
"""


def saved(base: Path, adapter: Path) -> None:
    model, _ = load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")
    attach_adapter(model, LoraConfig(r=4))
    perturb(model)
    save_adapter(model, adapter)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_writing_takes_a_few_copies_of_the_largest_parameter(tmp_path: Path) -> None:
    for size, sizes in (("small", {}), ("big", SIZES)):
        model = tiny.model("llama", **sizes).to(torch.bfloat16)
        model.save_pretrained(tmp_path / size)
        tiny.tokenizer().save_pretrained(tmp_path / size)
        saved(tmp_path / size, tmp_path / f"{size}-adapter")
    peaks = {}
    for name in MERGES:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path), name],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        peaks[name] = json.loads(done.stdout)
    print({name: f"{peak / LARGEST_BYTES:.1f} copies" for name, peak in peaks.items()})
    for name, peak in peaks.items():
        assert peak < MERGES[name] * LARGEST_BYTES + ALLOWANCE_BYTES, name


def test_the_proof_leaves_layers_on_disk_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.folder(tmp_path / "base")
    saved(base, tmp_path / "adapter")
    places = []
    real = verify.load_weights

    def load_weights(*given, **options):
        model, placed = real(*given, **options)
        places.extend(row.where for row in placed)
        return model, placed

    monkeypatch.setattr(verify, "load_weights", load_weights)
    # Room for embeddings and head, and for no layer.
    outside = 2 * 400 * 32 * 4
    monkeypatch.setattr(placement, "free_bytes", lambda device: 1.3 * outside)
    report = merge_folder(base, tmp_path / "adapter", tmp_path / "out", quantization="nf4")
    assert report.verification.error <= LOGITS_FLOAT32
    assert places == ["device", "disk", "disk"]
