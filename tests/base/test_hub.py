"""What is asked of the hub: nothing that could run, and weights only for an accepted config."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from lorakit.base import hub
from lorakit.base.checkpoint import read_header
from lorakit.base.load import load_base, load_tokenizer_of
from lorakit.errors import ModelError


class Hub:
    """Stands in for `snapshot_download`: copies what the patterns select from a folder."""

    def __init__(self, origin: Path, cache: Path) -> None:
        self.origin, self.cache = origin, cache
        self.given: list[str] = []

    def __call__(self, model, *, revision, allow_patterns, ignore_patterns) -> str:
        self.cache.mkdir(exist_ok=True)
        for path in sorted(self.origin.rglob("*")):
            name = path.relative_to(self.origin).as_posix()
            wanted = any(fnmatch(name, pattern) for pattern in allow_patterns)
            if path.is_file() and wanted and not any(fnmatch(name, p) for p in ignore_patterns):
                (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.cache / name)
                self.given.append(name)
        return str(self.cache)


@pytest.fixture
def fake_hub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    origin = tmp_path / "origin"
    shutil.copytree(tiny_folder, origin)
    for name in ("pytorch_model.bin", "modeling_evil.py", "consolidated.safetensors"):
        (origin / name).write_bytes(b"x")
    for name in ("LICENSE", "NOTICE.txt", "USE_POLICY.md"):
        (origin / name).write_text("terms")
    (origin / "onnx").mkdir()
    (origin / "onnx" / "model.safetensors").write_bytes(b"x")
    fake = Hub(origin, tmp_path / "cache")
    monkeypatch.setattr(hub, "snapshot_download", fake)
    return fake


def test_only_what_is_needed_is_downloaded(fake_hub: Hub) -> None:
    model, _ = load_base("org/model", dtype=torch.float32, device="cpu")
    assert not model.training
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(fake_hub.given)
    assert {"LICENSE", "NOTICE.txt", "USE_POLICY.md"} <= set(fake_hub.given)
    unwanted = {"pytorch_model.bin", "modeling_evil.py", "consolidated.safetensors"}
    assert not unwanted & set(fake_hub.given)
    assert not any("/" in name for name in fake_hub.given)


def test_shards_of_any_name_are_downloaded(fake_hub: Hub) -> None:
    (fake_hub.origin / "model.safetensors").rename(fake_hub.origin / "weights-1.safetensors")

    names = read_header(fake_hub.origin / "weights-1.safetensors")
    index = {"weight_map": dict.fromkeys(names, "weights-1.safetensors")}
    (fake_hub.origin / "model.safetensors.index.json").write_text(json.dumps(index))
    load_base("org/model", dtype=torch.float32, device="cpu")
    assert "weights-1.safetensors" in fake_hub.given


def test_a_refused_config_downloads_no_weights(fake_hub: Hub) -> None:
    path = fake_hub.origin / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {}}))
    with pytest.raises(ModelError, match="auto_map"):
        load_base("org/model")
    assert fake_hub.given == ["config.json"]


def test_a_tokenizer_alone_downloads_no_weights(fake_hub: Hub) -> None:
    tokenizer, config = load_tokenizer_of("org/model")
    assert len(tokenizer) > 0 and config.model_type == "llama"
    assert not any(name.endswith(".safetensors") for name in fake_hub.given)


def test_an_unreachable_hub_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    for load in (load_base, load_tokenizer_of):
        with pytest.raises(ModelError, match=r"base\.model"):
            load("org/model")
