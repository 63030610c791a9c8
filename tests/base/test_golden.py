"""Real pretrained models compute what independent implementations say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorakit.base.info import base_info
from lorakit.base.load import load_base
from tests import golden


@pytest.mark.parametrize("name", golden.NAMES)
def test_loaded_models_are_golden(shared_data: Path, name: str) -> None:
    folder = shared_data / "models" / name
    model, tokenizer = load_base(folder, dtype=torch.float32, device="cpu")
    golden.assert_golden(model, tokenizer, folder)


def test_an_offloaded_model_is_golden(shared_data: Path) -> None:
    folder = shared_data / "models" / "stories260K"
    model, tokenizer = load_base(
        folder, dtype=torch.float32, device="cpu", offload="disk", max_device_memory="900KB"
    )
    assert [row.where for row in base_info(model).placement].count("disk") == 1
    golden.assert_golden(model, tokenizer, folder)
