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
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.peft_config import FILE_NAME
from lorakit.adapters.save import TENSORS_FILE_NAME, save_adapter
from lorakit.errors import RunError
from lorakit.files import move_into_place, staging_folder
from lorakit.generate import Completion
from lorakit.generate.at_a_time import MAX_BATCH
from lorakit.generate.checks import check_request, end_tokens
from lorakit.generate.sequence import Growing, Stops
from lorakit.progress import bar
from lorakit.train.in_threads import in_threads
from lorakit.train.samplers import Asked
from lorakit.train.vllm_checks import check_base, check_context, knows_logprobs, refuse_adapter
from lorakit.train.vllm_protocol import Choice, ServedModel, completion_body
from lorakit.train.vllm_server import VLLMServer

PREFIX = "lorakit-"


class VLLMSampler:
    """See `lorakit.train.samplers.Sampler`. Used in a `with` block: afterwards the server has
    forgotten the adapter, and the folder is gone; after an error the next start does that.

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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # requests may be under way, and vLLM may read the adapter for each
            return
        if self._loaded is not None:
            self._server.unload(self._loaded)
            self._loaded = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def __call__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Asked
    ) -> list[Completion]:
        """See `Sampler`.

        Raises:
            InputError: a server, an adapter or settings that cannot give the policy's completions.
            RunError: the server fails.
        """
        prompts, settings = asked.prompts, asked.settings
        limits = check_request(
            model,
            prompts,
            settings,
            seeds=asked.seeds,
            max_new_tokens=None,
            adapters=None,
            max_batch=asked.max_batch,
        )
        stop_ids = sorted({*settings.stop_ids, *end_tokens(model, tokenizer)})
        base = self._base or self._served_base(asked.stop_if_asked)
        check_context(self._server, base, prompts, limits)
        if self._base is None:
            check_base(self._server, base, model, prompts[0])
            self._is_known = knows_logprobs(
                self._server,
                base,
                prompts[0],
                settings,
                stop_ids,
                is_corrected=self._is_corrected,
            )
            self._base = base
        name = self._synchronize(model)

        def asking(first: int, count: int) -> Callable[[], list[Choice]]:
            body = completion_body(
                name,
                prompts[first],
                settings,
                count=count,
                limit=limits[first],
                seed=asked.seeds[first],
                stop_ids=stop_ids,
            )
            return lambda: self._server.complete(body)

        sizes = [len(list(group)) for _, group in itertools.groupby(map(tuple, prompts))]
        firsts = np.cumsum([0, *sizes[:-1]]).tolist()
        asks = [asking(first, count) for first, count in zip(firsts, sizes, strict=True)]
        stops = Stops(tokenizer, stop_ids, settings.stop_strings)
        with bar("rolling out", len(prompts)) as running_bar:
            groups = in_threads(
                asks,
                num_threads=max(1, (asked.max_batch or MAX_BATCH) // max(sizes)),
                while_waiting=asked.stop_if_asked,
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
            refuse_adapter(model, json.loads(config))
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

    def _served_base(self, stop_if_asked: Callable[[], None]) -> ServedModel:
        """The model that it serves, once it is up."""
        served = self._server.wait_until_up(self._up_seconds, stop_if_asked)
        self._forget_leftovers(served)
        bases = [one for one in served if one.parent is None]
        if not bases:
            raise RunError(
                f"the vLLM server at {self._server.url} serves no model; possible: the recipe's "
                "base. Start it as docs/grpo.md says."
            )
        return bases[0]

    def _forget_leftovers(self, served: Sequence[ServedModel]) -> None:
        """Adapters of this folder, which a killed run left."""
        for one in served:
            if one.parent is not None and one.root and Path(one.root).parent == self._folder:
                self._server.unload(one.name)
        shutil.rmtree(self._folder, ignore_errors=True)


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
