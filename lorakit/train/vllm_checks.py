"""Whether a vLLM server can stand in for the policy: its base, its log-probabilities, its context,
and the adapter that it would be given."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lorakit.adapters.attached import adapter_disabled, attached
from lorakit.base.eval_mode import eval_mode
from lorakit.base.info import BaseInfo, base_info
from lorakit.data.examples import Example
from lorakit.data.pack import collate
from lorakit.errors import AdapterError, InputError, ModelError
from lorakit.generate import SamplingSettings
from lorakit.recipe.rules.vllm import refused_by_vllm
from lorakit.train.logprobs import token_logprobs
from lorakit.train.step import compute_device
from lorakit.train.vllm_protocol import ServedModel
from lorakit.train.vllm_server import VLLMServer

PROBED_TOKENS = 256  # of a prompt
# Mean difference in nats that no dtype and no 4-bit storage explains.
MOST_DIFFERENCE = 1.0
ZERO = 1e-3  # a log-probability of a token that nothing else is allowed beside

log = logging.getLogger(__name__)


def check_base(
    server: VLLMServer, base: ServedModel, model: PreTrainedModel, prompt: Sequence[int]
) -> None:
    """See that the server's model is the base of `model`, by what it computes: a name says little.

    Raises:
        InputError: it is another one.
        RunError: the server fails.
    """
    difference = 0.0
    if len(prompt) > 1:
        probed = prompt[:PROBED_TOKENS]
        theirs = np.array(server.prompt_logprobs(base.name, probed))
        difference = float(np.abs(theirs - _base_logprobs(model, probed)).mean())
    told = _told(base, _info(model), difference)
    if not difference <= MOST_DIFFERENCE:
        raise InputError(
            f"the vLLM server at {server.url}: {told}; possible: up to {MOST_DIFFERENCE:g}, of "
            "another dtype or storage. Serve the base that the recipe names: vllm serve BASE."
        )
    log.info("completions come from the vLLM server at %s: %s", server.url, told)


def check_context(
    server: VLLMServer,
    base: ServedModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
) -> None:
    """Refuse completions that the server has no room for.

    Args:
        limits: for each prompt the most tokens of its completion.

    Raises:
        InputError: naming what it takes.
    """
    longest = max(len(prompt) + most for prompt, most in zip(prompts, limits, strict=True))
    room = base.max_model_len
    if room is not None and longest > room:
        raise InputError(
            f"a prompt with its completion may have {longest} tokens, and the vLLM server at "
            f"{server.url} takes {room} (--max-model-len); possible: up to that. Start it with "
            "more, or lower grpo.max_completion_length."
        )


def knows_logprobs(
    server: VLLMServer,
    base: ServedModel,
    prompt: Sequence[int],
    settings: SamplingSettings,
    stop_ids: Sequence[int],
    *,
    is_corrected: bool,
) -> bool:
    """Whether its log-probabilities are those of the policy at the temperature, of all tokens.

    Where one token alone is allowed, log-probabilities after all processing are 0, whichever that
    token is; of those before it at most one of two is above log(1/2).

    Args:
        is_corrected: whether they weigh completions; then they must be known.

    Raises:
        InputError: they are not, and must be; or they are logits.
        RunError: the server fails.
    """
    ordered = dict.fromkeys([*prompt, *range(len(stop_ids) + 2)])
    first, second = [token for token in ordered if token not in stop_ids][:2]
    found = [server.only_logprob(base.name, prompt, token) for token in (first, second)]
    if max(found) > ZERO:
        raise InputError(
            f"the vLLM server at {server.url} gives logits ({max(found):g}) for log-probabilities; "
            "possible: --logprobs-mode raw_logprobs (the default) or processed_logprobs. Start it "
            "anew."
        )
    is_processed = min(found) > -ZERO
    is_cut = settings.top_p < 1 or settings.top_k is not None or bool(settings.min_p)
    if not is_cut if is_processed else settings.temperature == 1:
        return True
    if is_processed:
        why = "after top_p, top_k and min_p (--logprobs-mode processed_logprobs)"
        remedy = "Start it without --logprobs-mode, leave these out"
    else:
        why = f"before the temperature {settings.temperature:g} (--logprobs-mode raw_logprobs)"
        remedy = "Start it with --logprobs-mode processed_logprobs, set grpo.temperature to 1"
    told = f"the vLLM server at {server.url} gives log-probabilities {why}"
    if is_corrected:
        raise InputError(
            f"{told}; possible: those of the policy at the temperature, which the importance "
            f"correction needs. {remedy}, or turn the correction off with "
            "grpo.vllm_importance_sampling_correction: false."
        )
    log.warning("%s: how far sampling and training differ is not measured. %s.", told, remedy)
    return False


def refuse_adapter(model: PreTrainedModel, config: Mapping[str, Any]) -> None:
    """Refuse an adapter that the server would refuse, or take for another one.

    Args:
        config: as it is saved.

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
