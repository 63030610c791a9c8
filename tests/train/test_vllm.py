"""Completions from a server that follows vLLM's documented interface (tests/fake_vllm.py)."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import lorakit
from lorakit.errors import AdapterError, InputError, LorakitError, RunError
from lorakit.generate import Completion, SamplingSettings
from lorakit.http_client import MAX_TRIES
from lorakit.train.checkpoint import read_checkpoint
from lorakit.train.grpo import train_grpo
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.outcome import TrainOutcome
from lorakit.train.samplers import Asked
from lorakit.train.vllm_sampler import VLLMSampler
from lorakit.train.vllm_server import VLLMServer
from tests import families
from tests.fake_vllm import BASE_NAME, FakeVLLM
from tests.train.grpo_runs import CYCLES, LOOP, TOKENIZER, adapted, assert_same_run, questions

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

PROMPT = [1, *TOKENIZER("What is asthma ?")["input_ids"]]
WORDS: list[int] = TOKENIZER("daily fever")["input_ids"]
TINY = SamplingSettings(max_new_tokens=4, tempered_logprobs=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVLLM]:
    """Of the base that `adapted` adapts."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FakeVLLM(served_base(), TOKENIZER) as running:
        yield running


def served_base(seed: int = 0) -> PreTrainedModel:
    base = families.build("llama", seed, initializer_range=0.2)
    base.set_attn_implementation("eager")  # nothing of lorakit is in it
    return base


def sampler_of(
    server: FakeVLLM, folder: Path, *, is_corrected: bool = True, **given: Any
) -> VLLMSampler:
    at = VLLMServer(server.url, **({"sleep": lambda _: None} | given))
    return VLLMSampler(at, folder / "vllm", up_seconds=0.0, is_corrected=is_corrected)


def ask(
    sampler: VLLMSampler,
    model: PreTrainedModel,
    settings: SamplingSettings = TINY,
    prompts: list[list[int]] | None = None,
    *,
    max_batch: int = 64,
    stop_if_asked: Callable[[], None] = lambda: None,
) -> list[Completion]:
    prompts = [PROMPT] * 3 if prompts is None else prompts
    asked = Asked(prompts, settings, list(range(len(prompts))), max_batch, stop_if_asked)
    return sampler(model, TOKENIZER, asked)


def run(
    server: FakeVLLM,
    model: PreTrainedModel,
    folder: Path,
    grpo: GRPOSettings = CYCLES,
    *,
    resume: bool = False,
    **loop: Any,
) -> TrainOutcome:
    with sampler_of(server, folder) as sample:
        return train_grpo(
            model,
            TOKENIZER,
            questions(),
            dataclasses.replace(LOOP, **loop),
            grpo,
            sample=sample,
            run_dir=folder,
            resume=resume,
        )


def bits(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Of the base inside of PEFT's or lorakit's adapter."""
    return {
        name.replace(".base_layer", "").removeprefix("base_model.model."): value.detach().clone()
        for name, value in model.named_parameters()
        if "lora_" not in name
    }


@pytest.mark.parametrize(
    "adapter",
    [
        {},
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (
                {"use_rslora": True, "lora_dropout": 0.3},
                {"init_lora_weights": "pissa"},
                {"init_lora_weights": "olora"},
            )
        ),
    ],
    ids=str,
)
def test_every_cycle_is_sampled_from_the_adapter_as_it_is_then(
    server: FakeVLLM, tmp_path: Path, adapter: dict[str, Any]
) -> None:
    server.logprobs_mode = "processed_logprobs"  # the temperature is 0.9
    served = bits(server.base)
    model = adapted(**adapter)
    outcome = run(server, model, tmp_path)
    seen = set()
    for path in (tmp_path / "checkpoints").glob("step-*"):
        kept = read_checkpoint(path)
        rollouts = kept.tensors.get("rollouts", {})
        if "old_logprobs" not in rollouts:
            continue
        by_trainer = rollouts.get("undropped_logprobs", rollouts["old_logprobs"])
        trained = by_trainer != 0
        assert trained.any() or kept.state["method"]["rollouts"]["cycle"] == 0
        torch.testing.assert_close(
            rollouts["rollout_logprobs"][trained], by_trainer[trained], atol=1e-4, rtol=0
        )
        seen.add(kept.state["method"]["rollouts"]["cycle"])
    assert seen == {0, 1, 2}
    # Weights that are others have a name that was never used, and nothing stays behind.
    assert len(server.loaded) == 3 and not server.here
    assert not (tmp_path / "vllm").exists()
    # No base was merged into, neither here nor there.
    after = bits(server.base)
    assert all(torch.equal(after[name], value) for name, value in served.items())
    assert max(line["sampling_logp_difference"] for line in outcome.metrics) < 1e-4


def test_a_name_is_that_of_the_weights(server: FakeVLLM, tmp_path: Path) -> None:
    model = adapted()
    with sampler_of(server, tmp_path) as sampler:
        ask(sampler, model)
        ask(sampler, model)
        assert len(server.loaded) == 1
        first = next(iter(server.here))
        folder = Path(server.here[first])
        assert folder.parent == tmp_path / "vllm" and [*folder.parent.iterdir()] == [folder]
        parameter = next(p for n, p in model.named_parameters() if n.endswith("lora_B"))
        with torch.no_grad():
            parameter += 1e-3
        ask(sampler, model)
        assert len(server.loaded) == 2 and len(server.here) == 1 and first not in server.here
        assert not folder.exists()
        with torch.no_grad():
            parameter -= 1e-3
    assert not server.here and not (tmp_path / "vllm").exists()


def test_what_a_killed_run_left_is_forgotten_and_nothing_else(
    server: FakeVLLM, tmp_path: Path
) -> None:
    server.here = {
        "lorakit-0123456789abcdef": str(tmp_path.resolve() / "vllm" / "lorakit-0123456789abcdef"),
        "somebody": "/elsewhere/somebody",
    }
    (tmp_path / "vllm" / "lorakit-0123456789abcdef").mkdir(parents=True)
    with sampler_of(server, tmp_path) as sampler:
        ask(sampler, adapted())
        assert server.here.keys() == {"somebody", *server.loaded}
        assert [place.name for place in (tmp_path / "vllm").iterdir()] == [*server.loaded]


def test_requests_say_all_that_decides_a_completion(server: FakeVLLM, tmp_path: Path) -> None:
    """What is left out would be the generation config's of whoever published the model."""
    settings = dataclasses.replace(
        TINY, top_p=0.9, top_k=7, min_p=0.1, stop_strings=("x y",), stop_ids=(9,)
    )
    prompts = [PROMPT, PROMPT, [*PROMPT, 7], [*PROMPT, 7]]
    with sampler_of(server, tmp_path) as sampler:
        found = ask(sampler, adapted(), settings, prompts)
        (name,) = server.here
    bodies = [body for body in server.bodies if body["model"] == name]
    bodies.sort(key=lambda body: len(body["prompt"]))  # they come as the threads do
    assert [(one["prompt"], one["n"], one["seed"]) for one in bodies] == [
        (PROMPT, 2, 0),
        ([*PROMPT, 7], 2, 2),
    ]
    assert bodies[0] == {
        "model": name,
        "prompt": PROMPT,
        "n": 2,
        "seed": 0,
        "max_tokens": 4,
        "temperature": 1.0,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": ["x y"],
        "stop_token_ids": [4, 9],
        "logprobs": 0,
        "return_token_ids": True,
    }
    assert len(found) == 4 and all(len(one.token_ids) == len(one.logprobs) for one in found)


def test_completions_come_in_order_whatever_is_answered_first(
    server: FakeVLLM, tmp_path: Path
) -> None:
    prompts = [[*PROMPT, 5 + n] for n in range(6) for _ in range(2)]
    model = adapted()
    with sampler_of(server, tmp_path / "a") as sampler:
        one_by_one = ask(sampler, model, TINY, prompts, max_batch=1)
    with sampler_of(server, tmp_path / "b") as sampler:
        together = ask(sampler, model, TINY, prompts, max_batch=64)
    assert [one.token_ids for one in one_by_one] == [one.token_ids for one in together]
    assert len({tuple(one.token_ids) for one in together}) > 3


@pytest.mark.parametrize(
    ("ids", "said", "stop_strings", "kept", "text", "reason"),
    [
        ([*WORDS, 4], "stop", (), [*WORDS, 4], "daily fever", "stop"),
        (WORDS, "length", (), WORDS, "daily fever", "length"),
        # An end of the server's own, such as one more end token of its generation config.
        (WORDS[:2], "stop", (), WORDS[:2], None, "stop"),
        # What comes behind an end is none of the completion's.
        ([*WORDS, 4, 7], "length", (), [*WORDS, 4], "daily fever", "stop"),
        (WORDS, "stop", ("fev",), None, "daily ", "stop"),
    ],
)
def test_texts_and_ends_are_those_of_the_sampler_here(
    server: FakeVLLM,
    tmp_path: Path,
    ids: list[int],
    said: str,
    stop_strings: tuple[str, ...],
    kept: list[int] | None,
    text: str | None,
    reason: str,
) -> None:
    def change(path: str, value: Any) -> Any:
        for choice in value["choices"] if path == "/v1/completions" else []:
            if value["model"] != BASE_NAME:
                choice["token_ids"], choice["finish_reason"] = ids, said
                choice["logprobs"]["token_logprobs"] = [-0.5 - n for n in range(len(ids))]
        return value

    server.change = change
    settings = dataclasses.replace(TINY, max_new_tokens=len(WORDS) + 1, stop_strings=stop_strings)
    with sampler_of(server, tmp_path) as sampler:
        found = ask(sampler, adapted(), settings, [PROMPT])[0]
    if kept is not None:
        assert found.token_ids == kept
    assert found.token_ids == ids[: len(found.token_ids)]
    assert found.logprobs.tolist() == [-0.5 - n for n in range(len(found.token_ids))]
    assert found.text == (TOKENIZER.decode(ids) if text is None else text)
    assert found.finish_reason == reason


# What a server may do -> what is said of it, and of which kind the error is.
def _reply(path: str, status: int, value: Any) -> Callable[[FakeVLLM], None]:
    def spoil(server: FakeVLLM) -> None:
        server.fault = lambda asked, body: (
            (status, value) if asked == path and "prompt_logprobs" not in body else None
        )

    return spoil


def _changed(change: Callable[[dict[str, Any]], None]) -> Callable[[FakeVLLM], None]:
    def spoil(server: FakeVLLM) -> None:
        def changed(path: str, value: Any) -> Any:
            if path == "/v1/completions" and len(value["choices"]) == 3:
                change(value)
            return value

        server.change = changed

    return spoil


def _set(**attributes: Any) -> Callable[[FakeVLLM], None]:
    def spoil(server: FakeVLLM) -> None:
        for name, value in attributes.items():
            setattr(server, name, value)

    return spoil


FAULTS: dict[str, tuple[Callable[[FakeVLLM], None], type[LorakitError], str]] = {
    "no updates": (
        _set(allows_updates=False),
        RunError,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
    ),
    "another machine": (_set(sees_files=False), RunError, "under this very path"),
    "too small a rank": (_set(max_lora_rank=2), RunError, "--max-lora-rank 8"),
    "a key": (_set(key="secret"), RunError, "grpo.vllm_api_key_env"),
    "too short a context": (_set(max_model_len=6), InputError, "--max-model-len"),
    "logits": (_set(logprobs_mode="raw_logits"), InputError, "gives logits"),
    "another base": (
        lambda server: setattr(server, "base", served_base(3)),
        InputError,
        "Serve the base that the recipe names",
    ),
    "no vLLM": (_reply("/v1/models", 404, "<html>"), RunError, "is no vLLM server"),
    "no JSON": (_reply("/v1/models", 200, "<html>"), RunError, "not what vLLM answers"),
    "no model": (_reply("/v1/models", 200, {"data": []}), RunError, "serves no model"),
    "nonsense": (_reply("/v1/completions", 200, [1]), RunError, "not what vLLM answers"),
    "bad request": (
        _reply("/v1/completions", 400, {"error": {"message": "n is too large"}}),
        RunError,
        "HTTP 400: n is too large",
    ),
    "forgotten": (
        _reply("/v1/completions", 404, {"error": {"message": "The model `x` does not exist."}}),
        RunError,
        "was it started anew",
    ),
    "dead engine": (
        _reply("/v1/completions", 500, {"error": {"message": "EngineCore died"}}),
        RunError,
        "HTTP 500: EngineCore died",
    ),
    "too few": (_changed(lambda value: value["choices"].pop()), RunError, "gave 2 of 3 completi"),
    "no token ids": (
        _changed(lambda value: value["choices"][1].update(token_ids=None)),
        RunError,
        "vLLM 0.10.2 or newer",
    ),
    "no logprobs": (
        _changed(lambda value: value["choices"][1].update(logprobs=None)),
        RunError,
        "not what vLLM answers",
    ),
    "unequal": (
        _changed(lambda value: value["choices"][1]["token_ids"].append(7)),
        RunError,
        "log-probabilities",
    ),
    "not a number": (
        _changed(
            lambda value: value["choices"][0]["logprobs"]["token_logprobs"].__setitem__(
                0, float("nan")
            )
        ),
        RunError,
        "no number",
    ),
    "aborted": (
        _changed(lambda value: value["choices"][2].update(finish_reason="abort")),
        RunError,
        "ended with 'abort'",
    ),
    "another prompt": (
        _changed(lambda value: value["choices"][0].update(prompt_token_ids=[1])),
        RunError,
        "completed other tokens",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_failure_is_said_with_what_to_do(server: FakeVLLM, tmp_path: Path, name: str) -> None:
    spoil, kind, said = FAULTS[name]
    spoil(server)
    with pytest.raises(kind, match=re.escape(said)), sampler_of(server, tmp_path) as sampler:
        ask(sampler, adapted())


def test_a_server_that_is_down_or_too_slow(server: FakeVLLM, tmp_path: Path) -> None:
    nowhere = VLLMServer("http://127.0.0.1:1/v1", sleep=lambda _: None)
    sampler = VLLMSampler(nowhere, tmp_path / "vllm", up_seconds=0.0, is_corrected=True)
    with pytest.raises(RunError, match=r"no vLLM server answers at .* grpo.vllm_server_timeout"):
        ask(sampler, adapted())
    server.seconds = 0.2
    with (
        pytest.raises(RunError, match=r"in time .* \(grpo.vllm_answer_seconds\)"),
        sampler_of(server, tmp_path, answer_seconds=0.05) as sampler,
    ):
        ask(sampler, adapted())


def test_faults_that_pass_are_waited_for(server: FakeVLLM, tmp_path: Path) -> None:
    waits: list[float] = []
    left = [503] * (MAX_TRIES - 1)
    server.fault = lambda path, body: (
        (left.pop(), "") if path == "/v1/completions" and body["n"] == 3 and left else None
    )
    with sampler_of(server, tmp_path, sleep=waits.append) as sampler:
        assert len(ask(sampler, adapted())) == 3
    assert waits == [1, 2, 4, 8] and not left


def test_a_load_whose_answer_was_lost_is_a_load(server: FakeVLLM, tmp_path: Path) -> None:
    def lose(path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/load_lora_adapter" and not server.here:
            server._load(body)
            return 503, ""
        return None

    server.fault = lose
    with sampler_of(server, tmp_path) as sampler:
        ask(sampler, adapted())
        assert [*server.here] == [*server.loaded] and len(server.loaded) == 1


@pytest.mark.parametrize(
    ("mode", "given", "known"),
    [
        ("raw_logprobs", {}, True),
        ("raw_logprobs", {"top_k": 5}, True),
        ("raw_logprobs", {"temperature": 0.7}, False),
        ("processed_logprobs", {}, True),
        ("processed_logprobs", {"temperature": 0.7}, True),
        ("processed_logprobs", {"top_p": 0.8}, False),
    ],
)
def test_log_probabilities_are_those_of_the_policy_or_not_known(
    server: FakeVLLM,
    tmp_path: Path,
    mode: str,
    given: dict[str, Any],
    known: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.logprobs_mode = mode
    settings = dataclasses.replace(TINY, **given)
    model = adapted()
    with sampler_of(server, tmp_path / "a") as sampler:
        if known:
            found = np.concatenate([one.logprobs for one in ask(sampler, model, settings)])
            assert np.isfinite(found).all()
        else:
            with pytest.raises(InputError, match="vllm_importance_sampling_correction: false"):
                ask(sampler, model, settings)
    with (
        sampler_of(server, tmp_path / "b", is_corrected=False) as sampler,
        caplog.at_level(logging.WARNING),
    ):
        found = np.concatenate([one.logprobs for one in ask(sampler, model, settings)])
    assert np.isnan(found).all() == (not known)
    assert ("is not measured" in caplog.text) == (not known)


@pytest.mark.parametrize(
    "adapter",
    [
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 2.0}},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [5]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_adapters_that_it_would_refuse_or_mistake_are_refused(
    server: FakeVLLM, tmp_path: Path, adapter: dict[str, Any]
) -> None:
    with (
        pytest.raises(AdapterError, match=next(iter(adapter))),
        sampler_of(server, tmp_path) as sampler,
    ):
        ask(sampler, adapted(**adapter))
    assert not server.loaded


@pytest.mark.slow
def test_a_run_that_the_server_stopped_goes_on(server: FakeVLLM, tmp_path: Path) -> None:
    """Between two cycles it fails: the checkpoint of the last step is there, and the resumed run
    is the one that was never stopped, because this server's samples depend on seeds alone."""
    server.logprobs_mode = "processed_logprobs"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(server, adapted(), whole)

    def fail_later(path: str, body: dict[str, Any]) -> Any:
        return (500, "") if path == "/v1/completions" and len(server.loaded) > 1 else None

    server.loaded, server._peft, server.base = {}, None, served_base()
    server.fault = fail_later
    with pytest.raises(RunError, match="resume the run"):
        run(server, adapted(), broken, save_steps=100)
    assert [path.name for path in (broken / "checkpoints").glob("step-*")] == ["step-4"]
    server.fault = lambda *_: None
    left = [*server.here]
    assert len(left) == 1 and (broken / "vllm" / left[0]).exists()
    run(server, adapted(), broken, resume=True, save_steps=100)
    assert_same_run(whole, broken)
    assert not server.here and not (broken / "vllm").exists()


def test_inside_of_a_cycle_a_run_resumes_without_asking_again(
    server: FakeVLLM, tmp_path: Path
) -> None:
    server.logprobs_mode = "processed_logprobs"
    whole = tmp_path / "whole"
    run(server, adapted(), whole, max_steps=4)
    server.fault = lambda *_: (500, "")
    for step in (1, 2, 3):  # the cycle's completions are in the checkpoint
        folder = tmp_path / f"from-{step}"
        shutil.copytree(whole, folder)
        for later in range(step + 1, 5):
            shutil.rmtree(folder / "checkpoints" / f"step-{later}")
        run(server, adapted(), folder, resume=True, max_steps=4)
        assert_same_run(whole, folder)


def test_a_signal_ends_the_waiting(server: FakeVLLM, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    asked = threading.Event()
    answer = threading.Event()

    def wait(path: str, body: dict[str, Any]) -> None:
        if path == "/v1/completions" and body["n"] == 3:
            asked.set()
            answer.wait(20)

    def stop_if_asked() -> None:
        if asked.is_set():
            raise StoppedError

    server.fault = wait
    with pytest.raises(StoppedError), sampler_of(server, tmp_path) as sampler:
        ask(sampler, adapted(), stop_if_asked=stop_if_asked)
    answer.set()


def test_another_name_and_another_storage_are_told(
    server: FakeVLLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.root = "/models/another"
    with caplog.at_level(logging.INFO), sampler_of(server, tmp_path) as sampler:
        ask(sampler, adapted())
    assert "it serves /models/another" in caplog.text
    assert re.search(r"differ by 0\.000 nats", caplog.text)
    assert {body["model"] for body in server.bodies} == {BASE_NAME, *server.loaded}


@pytest.mark.parametrize("quantization", ["none", pytest.param("nf4", marks=pytest.mark.slow)])
def test_a_recipe_trains_with_it(
    server: FakeVLLM, tmp_path: Path, quantization: str, caplog: pytest.LogCaptureFixture
) -> None:
    base = families.folder(tmp_path / "tiny-base", "llama", initializer_range=0.2)
    rows = [{"question": f"What is {n}?", "answer": f"{n}"} for n in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "base": {"model": str(base), "dtype": "float32", "quantization": quantization},
        "adapter": {"r": 4},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "train": {"method": "grpo", "max_steps": 2, "batch_size": 16, "warmup_steps": 0},
        "grpo": {
            "rewards": [{"name": "regex", "options": {"regex": "[a-m]"}}],
            "num_generations": 4,
            "max_completion_length": 4,
            "use_vllm": True,
            "vllm_server_base_url": f"{server.url}/v1",
        },
        "output": {"dir": str(tmp_path / "run")},
    }
    with caplog.at_level(logging.INFO):
        outcome = lorakit.finetune(lorakit.parse_recipe(recipe))
    assert outcome.training.steps == 2 and len(server.loaded) == 2 and not server.here
    assert not (tmp_path / "run" / "vllm").exists()
    line = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0]
    difference = json.loads(line)["sampling_logp_difference"]
    assert "importance_sampling_ratio" in json.loads(line)
    told = re.search(r"it serves (.*); its log-probabilities .* differ by ([0-9.]+)", caplog.text)
    assert told is not None
    if quantization == "none":
        assert difference < 1e-4 and told[1] == "tiny-base" and float(told[2]) == 0
    else:
        assert difference > 1e-3 and float(told[2]) > 0
        assert told[1] == "tiny-base, in a copy of its own that is not stored in nf4 as here"
