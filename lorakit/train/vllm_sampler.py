"""Completions from a vLLM server: it is given the adapter, never merged weights, anew for each
generation whose weights are others.

An adapter is named by its content. vLLM keys the cache of prompts' keys and values by an adapter's
name, and where an adapter is exchanged under its name (`load_inplace`), answers come from the old
one's (vllm-project/vllm#42125); besides, it is read from the disk at every step then
(NovaSky-AI/SkyRL#1606). A name of its own for each content has neither fault.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attached import adapter_disabled, attached
from lorakit.adapters.peft_config import FILE_NAME
from lorakit.adapters.save import TENSORS_FILE_NAME, save_adapter
from lorakit.base.eval_mode import eval_mode
from lorakit.base.info import BaseInfo, base_info
from lorakit.data.examples import Example
from lorakit.data.pack import collate
from lorakit.errors import AdapterError, InputError, ModelError, RunError
from lorakit.files import move_into_place, staging_folder
from lorakit.generate import Completion, SamplingSettings
from lorakit.generate.checks import check_request, end_tokens
from lorakit.generate.sequence import Growing, Stops
from lorakit.progress import bar
from lorakit.recipe.rules.vllm import refused_by_vllm
from lorakit.train.in_threads import in_threads
from lorakit.train.logprobs import token_logprobs
from lorakit.train.step import compute_device
from lorakit.train.vllm_server import Choice, ServedModel, VLLMServer

PREFIX = "lorakit-"
PROBED_TOKENS = 256  # of a prompt, to compare the server's base with the one here
# Mean difference in nats that no dtype and no 4-bit storage explains.
MOST_DIFFERENCE = 1.0
ZERO = 1e-3  # a log-probability of a token that nothing else is allowed beside

log = logging.getLogger(__name__)


class VLLMSampler:
    """See `lorakit.train.samplers.Sampler`. Used in a `with` block: afterwards the server has
    forgotten the adapter, and the folder is gone.

    Args:
        server: that serves the base.
        folder: where adapters are handed over; nothing else is in it.
        up_seconds: to wait for the server at first.
        is_corrected: whether log-probabilities must be known, because they weigh completions.
    """

    def __init__(
        self, server: VLLMServer, folder: Path, *, up_seconds: float, is_corrected: bool
    ) -> None:
        self._server = server
        self._folder = folder.resolve()
        self._up_seconds = up_seconds
        self._is_corrected = is_corrected
        self._base: ServedModel | None = None
        self._is_known = False
        self._loaded: str | None = None

    def __enter__(self) -> VLLMSampler:
        return self

    def __exit__(self, *_: object) -> None:
        if self._loaded is not None:
            self._server.unload(self._loaded)
            self._loaded = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def __call__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seeds: Sequence[int],
        max_batch: int,
        stop_if_asked: Callable[[], None],
    ) -> list[Completion]:
        """See `Sampler`.

        Raises:
            InputError: a server, an adapter or settings that cannot give the policy's completions.
            RunError: the server fails.
        """
        limits = check_request(
            model,
            prompts,
            settings,
            seeds=seeds,
            max_new_tokens=None,
            adapters=None,
            max_batch=max_batch,
        )
        stop_ids = sorted({*settings.stop_ids, *end_tokens(model, tokenizer)})
        if self._base is None:
            self._base = self._checked_base(model, prompts[0], settings, stop_ids)
        self._check_context(prompts, limits)
        name = self._synchronize(model)

        def asking(first: int, count: int) -> Callable[[], list[Choice]]:
            return lambda: self._server.complete(
                name,
                prompts[first],
                settings,
                count=count,
                limit=limits[first],
                seed=seeds[first],
                stop_ids=stop_ids,
            )

        sizes = [len(list(group)) for _, group in itertools.groupby(map(tuple, prompts))]
        firsts = np.cumsum([0, *sizes[:-1]]).tolist()
        asks = [asking(first, count) for first, count in zip(firsts, sizes, strict=True)]
        stops = Stops(tokenizer, stop_ids, settings.stop_strings)
        with bar("rolling out", len(prompts)) as running_bar:
            groups = in_threads(
                asks,
                num_threads=max(1, max_batch // max(sizes)),
                while_waiting=stop_if_asked,
                on_done=lambda group: running_bar.advance(len(group)),
            )
        choices = [choice for group in groups for choice in group]
        return [
            _completion(index, prompt, choice, limit, stops, is_known=self._is_known)
            for index, (prompt, choice, limit) in enumerate(
                zip(prompts, choices, limits, strict=True)
            )
        ]

    def _synchronize(self, model: PreTrainedModel) -> str:
        """Have the server answer with the adapter as it is now; its name."""
        with staging_folder(self._folder / "adapter") as staging:
            save_adapter(model, staging)
            config = (staging / FILE_NAME).read_bytes()
            content = hashlib.sha256(config + (staging / TENSORS_FILE_NAME).read_bytes())
            name = f"{PREFIX}{content.hexdigest()[:16]}"
            if name == self._loaded:
                return name
            _check_adapter(model, json.loads(config))
            place = self._folder / name
            if not place.exists():
                move_into_place(staging, place)
        # First, because it may have room for no second one.
        before, self._loaded = self._loaded, None
        if before is not None:
            self._server.unload(before)
            shutil.rmtree(self._folder / before, ignore_errors=True)
        self._server.load(name, place, rank=json.loads(config)["r"])
        self._loaded = name
        return name

    def _checked_base(
        self,
        model: PreTrainedModel,
        prompt: Sequence[int],
        settings: SamplingSettings,
        stop_ids: Sequence[int],
    ) -> ServedModel:
        """The model that it serves, once it is clear that this is the base and what its
        log-probabilities mean."""
        served = self._server.wait_until_up(self._up_seconds)
        self._forget_leftovers(served)
        bases = [one for one in served if one.parent is None]
        if not bases:
            raise RunError(
                f"the vLLM server at {self._server.url} serves no model; possible: the recipe's "
                "base. Start it as docs/grpo.md says."
            )
        base = bases[0]
        difference = self._difference(model, base, prompt[:PROBED_TOKENS])
        told = _told(base, _info(model), difference)
        if difference > MOST_DIFFERENCE:
            raise InputError(
                f"{told}; possible: up to {MOST_DIFFERENCE:g}, of another dtype or storage. Serve "
                "the base that the recipe names: vllm serve BASE."
            )
        log.info("completions come from the vLLM server at %s: %s", self._server.url, told)
        self._is_known = self._knows_logprobs(base, prompt, settings, stop_ids)
        return base

    def _forget_leftovers(self, served: Sequence[ServedModel]) -> None:
        """Adapters of this folder, which a killed run left."""
        for one in served:
            if one.parent is not None and one.root and Path(one.root).parent == self._folder:
                self._server.unload(one.name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _difference(
        self, model: PreTrainedModel, base: ServedModel, prompt: Sequence[int]
    ) -> float:
        """Mean absolute difference of the server's log-probabilities of a prompt from the base's
        here, in nats."""
        if len(prompt) < 2:
            return 0.0
        theirs = np.array(self._server.prompt_logprobs(base.name, prompt))
        return float(np.abs(theirs - _base_logprobs(model, prompt)).mean())

    def _knows_logprobs(
        self,
        base: ServedModel,
        prompt: Sequence[int],
        settings: SamplingSettings,
        stop_ids: Sequence[int],
    ) -> bool:
        """Whether its log-probabilities are those of the policy at the temperature, of all tokens.

        Where one token alone is allowed, log-probabilities after all processing are 0, whichever
        that token is; of those before it at most one of two is above log(1/2).
        """
        ordered = dict.fromkeys([*prompt, *range(len(stop_ids) + 2)])
        first, second = [token for token in ordered if token not in stop_ids][:2]
        found = [self._server.only_logprob(base.name, prompt, token) for token in (first, second)]
        if max(found) > ZERO:
            raise InputError(
                f"the vLLM server at {self._server.url} gives logits ({max(found):g}) for "
                "log-probabilities; possible: --logprobs-mode raw_logprobs (the default) or "
                "processed_logprobs. Start it anew."
            )
        is_processed = min(found) > -ZERO
        is_cut = settings.top_p < 1 or settings.top_k is not None or bool(settings.min_p)
        is_known = not is_cut if is_processed else settings.temperature == 1
        if is_known:
            return True
        if is_processed:
            why = "after top_p, top_k and min_p (--logprobs-mode processed_logprobs)"
            remedy = "Start it without --logprobs-mode, leave these out"
        else:
            why = f"before the temperature {settings.temperature:g} (--logprobs-mode raw_logprobs)"
            remedy = "Start it with --logprobs-mode processed_logprobs, set grpo.temperature to 1"
        told = f"the vLLM server at {self._server.url} gives log-probabilities {why}"
        if self._is_corrected:
            raise InputError(
                f"{told}; possible: those of the policy at the temperature, which the importance "
                f"correction needs. {remedy}, or turn the correction off with "
                "grpo.vllm_importance_sampling_correction: false."
            )
        log.warning("%s: how far sampling and training differ is not measured. %s.", told, remedy)
        return False

    def _check_context(self, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
        assert self._base is not None
        longest = max(len(prompt) + most for prompt, most in zip(prompts, limits, strict=True))
        room = self._base.max_model_len
        if room is not None and longest > room:
            raise InputError(
                f"a prompt with its completion may have {longest} tokens, and the vLLM server at "
                f"{self._server.url} takes {room} (--max-model-len); possible: up to that. Start "
                "it with more, or lower grpo.max_completion_length."
            )


def _completion(
    index: int, prompt: Sequence[int], choice: Choice, limit: int, stops: Stops, *, is_known: bool
) -> Completion:
    """By the very rules that end a completion here: the text is decoded from the tokens."""
    growing = Growing(index, prompt, 0, limit)
    for token, logprob in zip(choice.token_ids, choice.logprobs, strict=True):
        growing.token_ids.append(token)
        growing.logprobs.append(logprob if is_known else float("nan"))
        if stops.end(growing):
            return growing.completion()
    # By a rule of the server's own: an end token of its generation config, or its context.
    growing.limit = len(growing.token_ids)
    stops.end(growing)
    growing.finish_reason = "stop" if choice.reason == "stop" else "length"
    return growing.completion()


def _check_adapter(model: PreTrainedModel, config: dict[str, Any]) -> None:
    """Refuse an adapter that the server would refuse, or take for another one.

    Raises:
        AdapterError: naming every option that stands in the way.
    """
    faults = [f"{name} ({why})" for name, why in refused_by_vllm(config).items()]
    if any(kept.start.corrects_base for kept in attached(model).starts().values()):
        faults.append("init loftq (it corrects how this base is stored; vLLM stores its own copy)")
    if faults:
        raise AdapterError(
            f"the adapter has {', '.join(faults)}; possible with grpo.use_vllm: LoRA of one rank "
            "and alpha. Train such an adapter, or set grpo.use_vllm to false."
        )


@torch.no_grad()
def _base_logprobs(model: PreTrainedModel, prompt: Sequence[int]) -> np.ndarray:
    """Of a prompt's tokens after its first, float32, by the base as it stands here."""
    weights = np.ones(len(prompt), np.float32)
    weights[0] = 0
    example = Example(np.array(prompt, np.int32), weights)
    micro_batch = collate([example], [0], packed=False, pad_id=0).to(compute_device(model))
    with eval_mode(model), adapter_disabled(model):
        logprobs, _ = token_logprobs(model, micro_batch)
    return logprobs.cpu().numpy()


def _info(model: PreTrainedModel) -> BaseInfo | None:
    try:
        return base_info(model)
    except ModelError:  # a model that the caller made himself
        return None


def _told(base: ServedModel, info: BaseInfo | None, difference: float) -> str:
    """What is served, in words."""
    root = base.root or base.name
    told = f"it serves {root}"
    if info is not None:
        if _names(root).isdisjoint(_names(info.source) | _names(str(info.folder))):
            told += f", by its name another model than {info.source}"
        if info.quantization != "none":
            told += f", in a copy of its own that is not stored in {info.quantization} as here"
    return f"{told}; its log-probabilities of a prompt differ by {difference:.3f} nats in the mean"


def _names(source: str) -> set[str]:
    """What a model that lies there may be called, without the owner of a hub id."""
    parts = source.rstrip("/").split("/")
    of_hub = [part.split("--")[-1] for part in parts if part.startswith("models--")]
    return {parts[-1], *of_hub}
