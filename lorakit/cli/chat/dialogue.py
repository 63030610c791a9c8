"""One conversation with one model: its turns, what of them fits the context, and the answers."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from operator import attrgetter
from types import FrameType

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.adapters.attached import adapter_disabled
from lorakit.cli.chat.text_stream import TextStream
from lorakit.data.fields import check_encodable
from lorakit.data.named_sets import context_of
from lorakit.data.prompt import PromptRenderer
from lorakit.generate import SamplingSettings, generate
from lorakit.generate.checks import end_tokens
from lorakit.retrieve.prompt import DOCUMENTS_PROMPT, fitting, with_documents
from lorakit.retrieve.retriever import TOP_K, Found, Retriever


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: without special tokens.
        num_tokens: that were generated.
        seconds: that took.
        is_cut: it ended at the most tokens an answer may have, not by itself.
        is_stopped: Ctrl-C ended it.
        num_forgotten: turns that no longer fitted the context and were dropped, the oldest first.
        found: the documents the model was given, numbered as it may have cited them.
    """

    text: str
    num_tokens: int
    seconds: float
    is_cut: bool
    is_stopped: bool
    num_forgotten: int
    found: tuple[Found, ...] = ()


@dataclass(frozen=True)
class Documents:
    """What a dialogue looks up.

    Attributes:
        top_k: the most chunks that go with a question.
        prompt: see `with_documents`.
    """

    retriever: Retriever
    top_k: int = TOP_K
    prompt: str = DOCUMENTS_PROMPT


@dataclass(frozen=True)
class Turn:
    """A question and its answer; one without an answer is kept to be taken back, and not told."""

    question: str
    answer: str

    @property
    def is_told(self) -> bool:
        """Whether it is part of the conversation that the model is given."""
        return bool(self.answer.strip())


@contextmanager
def _interrupts_noted() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C is noted, to be asked for between tokens; the second one raises.

    Raised at any moment, KeyboardInterrupt can land in a destructor or a callback, where Python
    prints and forgets it: the answer would go on.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)


class Dialogue:
    """A conversation that goes on.

    Args:
        model: with an adapter attached.
        tokenizer: with the chat template of the training.
        settings: how answers are drawn; answer number n draws with seed `settings.seed + n`.
        name: of the model, for people.
        with_adapter: False: the base answers.
        system: the system message, if there is one.
        documents: looked up for every question, which alone is remembered.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: SamplingSettings,
        *,
        name: str = "tuned",
        with_adapter: bool = True,
        system: str | None = None,
        documents: Documents | None = None,
    ) -> None:
        self.name = name
        self.system = system
        self.turns: list[Turn] = []
        self._model = model
        self._tokenizer = tokenizer
        self._with_adapter = with_adapter
        self._documents = documents
        self._prompts = PromptRenderer(tokenizer)
        self._context = context_of(model.config)
        limit = self._context or settings.max_new_tokens
        self._settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, limit))
        self._num_answers = 0

    def ask(self, question: str, on_text: Callable[[str], None] = lambda piece: None) -> Answer:
        """Answer a question, and remember both.

        Args:
            on_text: called with each piece of the answer as it comes; together they are its text.

        Raises:
            InputError: the question alone is too long for the model, or is no text. The
                conversation is as it was.
        """
        check_encodable(question, "the question")
        found = self._found(question)
        prompt, kept = self._fitting(question, found)
        stream = TextStream(self._tokenizer, end_tokens(self._model, self._tokenizer))
        num_tokens = 0

        def on_token(_: int, token: int) -> None:
            nonlocal num_tokens
            num_tokens += 1
            if is_interrupted():
                raise KeyboardInterrupt
            if piece := stream.add(token):
                on_text(piece)

        seed = self._settings.seed + self._num_answers
        self._num_answers += 1
        started = time.monotonic()
        is_cut = is_stopped = False
        try:
            with (
                _interrupts_noted() as is_interrupted,
                nullcontext() if self._with_adapter else adapter_disabled(self._model),
            ):
                (completion,) = generate(
                    self._model,
                    self._tokenizer,
                    [prompt],
                    self._settings,
                    seeds=[seed],
                    on_token=on_token,
                    has_bar=False,
                )
            if rest := stream.rest(completion.text):
                on_text(rest)
            is_cut = completion.finish_reason == "length"
        except KeyboardInterrupt:
            is_stopped = True
        seconds = time.monotonic() - started
        num_forgotten = sum(turn.is_told for turn in self.turns[: len(self.turns) - len(kept)])
        self.turns = [*kept, Turn(question, stream.shown)]
        return Answer(stream.shown, num_tokens, seconds, is_cut, is_stopped, num_forgotten, found)

    def reset(self, system: str | None) -> None:
        """Forget every turn; `system` is the system message from now on."""
        self.system = system
        self.turns = []

    def undo(self) -> Turn | None:
        """Take back the last turn; None when there is none."""
        return self.turns.pop() if self.turns else None

    def messages(self) -> list[dict[str, str]]:
        """The conversation so far, as chat messages."""
        return self._messages(self.turns)

    def _messages(self, turns: list[Turn]) -> list[dict[str, str]]:
        said = [] if self.system is None else [("system", self.system)]
        for turn in filter(attrgetter("is_told"), turns):
            said += [("user", turn.question), ("assistant", turn.answer)]
        return [{"role": role, "content": content} for role, content in said]

    def _found(self, question: str) -> tuple[Found, ...]:
        """The documents for a question that fit the context beside it, without earlier turns."""
        if self._documents is None:
            return ()
        documents = self._documents
        (found,) = documents.retriever.search([question], documents.top_k)
        budget = None if self._context is None else self._context - self._room()
        _, kept = fitting(found, lambda some: self._prompt([], question, some), budget)
        return tuple(kept)

    def _fitting(self, question: str, found: Sequence[Found]) -> tuple[list[int], list[Turn]]:
        """The prompt, and the turns that are in it: as many of the last as leave room to answer."""
        kept = list(self.turns)
        while True:
            prompt = self._prompt(kept, question, found)
            if self._context is None or not kept:
                return prompt, kept
            if len(prompt) + self._room() <= self._context:
                return prompt, kept
            del kept[0]

    def _prompt(self, turns: list[Turn], question: str, found: Sequence[Found]) -> list[int]:
        messages = [*self._messages(turns), {"role": "user", "content": question}]
        if self._documents is not None:
            messages = with_documents(messages, found, prompt=self._documents.prompt)
        return self._prompts.ids(messages)

    def _room(self) -> int:
        """Tokens that are left for an answer."""
        assert self._context is not None
        return min(self._settings.max_new_tokens, self._context // 2)
