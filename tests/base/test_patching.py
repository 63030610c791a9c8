"""Law 11 for the base: import and load change no attribute of other packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import transformers
from transformers import AttentionInterface

from lorakit.base.load import load_base
from tests import patching

SCRIPT = """
import sys
import torch, transformers, safetensors, huggingface_hub, numpy
import transformers.modeling_utils, transformers.masking_utils, transformers.quantizers.auto
from tests.patching import nothing_patched
# transformers adds Module.smart_apply to torch by itself, the first time it loads any model.
for folder in sys.argv[1:]:
    transformers.AutoModelForCausalLM.from_pretrained(folder)
with nothing_patched():
    import lorakit
    from lorakit.base.load import load_base
    for folder in sys.argv[1:]:
        for quantization in ("none", "nf4"):
            model, _ = load_base(
                folder, quantization=quantization, dtype=torch.float32, device="cpu"
            )
            model(torch.tensor([[1, 2, 3]]))
"""


def test_import_and_load_patch_nothing(tiny_folder: Path, family_folder) -> None:
    # Experts in transformers' registry, and those whose class looks into none.
    folders = map(str, (tiny_folder, family_folder("mixtral"), family_folder("llama4_text")))
    command = [sys.executable, "-c", SCRIPT, *folders]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])


def test_the_check_notices_patches() -> None:
    before = patching.snapshot()
    original = torch.nn.Linear.forward
    torch.nn.Linear.forward = lambda self, x: x  # type: ignore[method-assign]
    try:
        found = patching.changes(before, patching.snapshot())
    finally:
        torch.nn.Linear.forward = original  # type: ignore[method-assign]
    assert found == ["torch.nn.modules.linear.Linear.forward: changed"]
    assert patching.changes(before, patching.snapshot()) == []


def test_loading_keeps_logging_and_other_attention_as_they_were(tiny_folder: Path) -> None:
    before = (
        transformers.logging.get_verbosity(),
        transformers.logging.is_progress_bar_enabled(),
        {name: id(function) for name, function in AttentionInterface._global_mapping.items()},
    )
    load_base(tiny_folder, device="cpu")
    functions = {name: id(f) for name, f in AttentionInterface._global_mapping.items()}
    functions.pop("lorakit")
    before[2].pop("lorakit", None)
    assert before == (
        transformers.logging.get_verbosity(),
        transformers.logging.is_progress_bar_enabled(),
        functions,
    )
