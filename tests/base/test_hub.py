"""What is asked of the hub: nothing that could run, and weights only for an accepted config."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lorakit.base import hub
from lorakit.base.checkpoint import read_header
from lorakit.base.load import load_base, load_tokenizer_of
from lorakit.base.write_quantized import PackSettings, quantize_folder
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
    # As huggingface_hub 1 words it.
    worded = (
        "Got: ConnectError: [Errno -2] Name or service not known\nAn error happened while trying "
        "to locate the files on the Hub. Please check your internet connection and try again."
    )

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError(worded)

    monkeypatch.setattr(hub, "snapshot_download", offline)
    for load in (load_base, load_tokenizer_of):
        with pytest.raises(ModelError, match=r"base\.model") as caught:
            load("org/model")
        told = str(caught.value)
        assert "the hub cannot be reached (ConnectError: [Errno -2] Name or service not kn" in told
        assert ".." not in told and "Got:" not in told and "\n" not in told


def test_what_the_hub_answers_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        GatedRepoError: "open only to those who were granted access",
        RepositoryNotFoundError: "the hub has none of this name",
        RevisionNotFoundError: "it has no revision 'v9'",
        HfHubHTTPError: r"the hub refused it \(503 Server Error\)",
    }
    response = SimpleNamespace(headers={}, request=None)  # whatever HTTP client the hub's uses
    for kind, words in answers.items():

        def refuse(*_args, kind=kind, **_kwargs):
            raise kind("503 Server Error.\n\nDetails", response=response)

        monkeypatch.setattr(hub, "snapshot_download", refuse)
        with pytest.raises(ModelError, match=words):
            hub.resolve("org/model", "v9")


def test_a_message_names_what_the_model_was_given_as(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    for model in ("org/model", "./no such folder"):
        with pytest.raises(ModelError, match="Fix the argument MODEL") as caught:
            quantize_folder(model, tmp_path / "out", PackSettings("nf4"))
        assert "base.model" not in str(caught.value)
