"""A model in memory as lm-eval's own kind of model. Imported only where lm-eval is installed.

What lm-eval's HFLM does with text is done alike (the start token, trailing spaces, truncation on
the left, windows of long texts), so that the numbers are those of `lm_eval --model hf`; the forward
pass and the sampler are lorakit's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.data.template import ChatTemplate
from lorakit.errors import DataError, ModelError
from lorakit.evaluate.likelihood import Likelihood, Request, likelihoods
from lorakit.generate import SamplingSettings, generate

MAX_NEW_TOKENS = 256  # where a task names no limit, as in lm-eval's HFLM
# Generation options of tasks that lorakit's sampler has, or that say nothing at this value.
SAMPLER_OPTIONS = ("do_sample", "temperature", "top_p", "top_k", "until", "max_gen_toks")
IDLE_OPTIONS = {"num_beams": 1, "repetition_penalty": 1.0, "num_return_sequences": 1}


class InMemoryLM(TemplateLM):
    """lm-eval's requests answered by a model as it stands, adapter on or off.

    Args:
        model: a causal language model.
        tokenizer: of the model, with a start token or an end token.
        chat_template: Jinja source that tasks are given in, if they are.
        stop_ids: further tokens that end an answer.
        context: tokens the model can attend to.
        token_budget: tokens of one forward pass.
        packed: whether requests may share a row.
        description: of the progress bars.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: str | None,
        stop_ids: Sequence[int],
        context: int,
        token_budget: int,
        packed: bool,
        description: str,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = context
        self._model = model
        self._template = ChatTemplate(tokenizer, chat_template)
        self._stop_ids = tuple(stop_ids)
        self._token_budget = token_budget
        self._packed = packed
        self._description = description

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text.

        Raises:
            ModelError: the tokenizer has none.
        """
        end = self.tokenizer.eos_token_id
        if end is None:
            raise ModelError(
                f"the tokenizer of {self.tokenizer.name_or_path} has no end token, and lm-eval "
                "puts that or a start token before texts without a context. Name one as eos_token "
                "in its tokenizer_config.json, or remove evaluate.lm_eval."
            )
        return int(end)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without a context.

        Raises:
            ModelError: the tokenizer has neither a start token nor an end token.
        """
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests, which is not used here."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The Jinja source in use, for lm-eval's records."""
        return self._template.source if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text; without the prompt, up to the end of its last message."""
        messages = self._template.messages_for(chat_history)
        text = self._template.render(messages, prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; a start token as the tokenizer has it, and never twice."""
        if add_special_tokens is None:
            start = str(self.tokenizer.decode(self.prefix_token_id))
            add_special_tokens = not (start and string.startswith(start))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return [(one.logprob, one.is_greedy) for one in self._likelihoods(requests)]

    def _likelihoods(
        self, requests: Sequence[tuple[Any, list[int], list[int]]]
    ) -> list[Likelihood]:
        return likelihoods(
            self._model,
            [self._fitting(context, continuation) for _, context, continuation in requests],
            token_budget=self._token_budget,
            packed=self._packed,
            description=f"{self._description}: scoring",
        )

    def _fitting(self, context: list[int], continuation: list[int]) -> Request:
        """The last tokens of the context that the model can attend to."""
        room = self.max_length + 1 - len(continuation)
        if not continuation or room < 1:
            raise DataError(
                f"lm-eval asks for the likelihood of {len(continuation)} tokens; possible: 1 to "
                f"{self.max_length}, the model's context. Leave the task out of "
                "evaluate.lm_eval.tasks."
            )
        return Request(context[-room:], continuation)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts, in windows of the model's context."""
        windows, owners = [], []
        for index, request in enumerate(requests):
            (text,) = request.args
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, found in zip(owners, self._likelihoods(windows), strict=True):
            totals[owner] += found.logprob
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, each cut before the first of its stop strings."""
        answers: dict[int, str] = {}
        by_options: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            key = json.dumps(request.args[1], sort_keys=True)
            by_options.setdefault(key, []).append(index)
        for indices in by_options.values():
            settings = self._settings(requests[indices[0]].args[1])
            room = self.max_length - settings.max_new_tokens
            prompts = [
                self.tok_encode(requests[index].args[0])[-room:] or [self.prefix_token_id]
                for index in indices
            ]
            completions = generate(
                self._model,
                self.tokenizer,
                prompts,
                settings,
                description=f"{self._description}: answers",
            )
            answers |= dict(zip(indices, (one.text for one in completions), strict=True))
        return [answers[index] for index in range(len(requests))]

    def _settings(self, options: dict[str, Any]) -> SamplingSettings:
        given = normalize_gen_kwargs(options, MAX_NEW_TOKENS)
        strange = {
            name: value
            for name, value in given.items()
            if name not in SAMPLER_OPTIONS and IDLE_OPTIONS.get(name, ...) != value
        }
        if strange or given["max_gen_toks"] >= self.max_length:
            raise DataError(
                f"an lm-eval task generates with {strange or given['max_gen_toks']}; possible: "
                f"{', '.join(SAMPLER_OPTIONS)}, and fewer tokens than the model's context of "
                f"{self.max_length}. Set these in the task's generation_kwargs, or leave the task "
                "out of evaluate.lm_eval.tasks."
            )
        return SamplingSettings(
            max_new_tokens=given["max_gen_toks"],
            temperature=given["temperature"] if given["do_sample"] else 0.0,
            top_p=given.get("top_p", 1.0),
            top_k=given.get("top_k"),
            stop_strings=tuple(text for text in given["until"] if text),
            stop_ids=self._stop_ids,
        )
