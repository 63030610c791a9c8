"""What each way puts before the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lorakit.compare.few_shot import FewShot, Turns
from lorakit.compare.questions import AskedQuestion
from lorakit.data.prompt import PromptRenderer
from lorakit.progress import track
from lorakit.retrieve.prompt import DOCUMENTS_PROMPT, fitting, with_documents
from lorakit.retrieve.retriever import Found, Retriever


@dataclass(frozen=True)
class Way:
    """One way to answer.

    Attributes:
        name: in compare.json.
        title: for people.
        is_tuned: whether the adapter takes part.
        has_examples: whether solved examples precede the question.
        has_documents: whether documents are looked up for it.
    """

    name: str
    title: str
    is_tuned: bool = False
    has_examples: bool = False
    has_documents: bool = False


# In the order of what they take to set up: of equals, the first is the simplest.
WAYS = (
    Way("base", "plain prompt"),
    Way("few_shot", "few-shot", has_examples=True),
    Way("retrieval", "retrieval", has_documents=True),
    Way("tuned", "tuned", is_tuned=True),
    Way("tuned_retrieval", "tuned + retrieval", is_tuned=True, has_documents=True),
)


@dataclass(frozen=True)
class Prompt:
    """What a model is given.

    Attributes:
        ids: tokens.
        examples: solved ones in it.
        found: the documents in it.
    """

    ids: list[int]
    examples: int = 0
    found: tuple[Found, ...] = ()


@dataclass(frozen=True)
class Prompts:
    """Every question as one way asks it.

    Attributes:
        prompts: one for each question.
        search_seconds: of one question, on average: looking up what is put into its prompt.
    """

    prompts: list[Prompt]
    search_seconds: float = 0.0


class PromptBuilder:
    """Makes the prompts of every way.

    Args:
        tokenizer: with the chat template of the training.
        context: of the model, in tokens; None: no limit.
        max_new_tokens: room that is left for an answer; where the right answer is longer, room for
            that one, since its loss is measured.
        few_shot: examples to choose from.
        num_examples: the most of them in a prompt.
        retriever: documents, if there are any.
        top_k: the most chunks in a prompt.
        documents_prompt: see `with_documents`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int | None,
        max_new_tokens: int,
        few_shot: FewShot | None = None,
        num_examples: int = 0,
        retriever: Retriever | None = None,
        top_k: int = 0,
        documents_prompt: str | None = None,
    ) -> None:
        self._renderer = PromptRenderer(tokenizer)
        self._context = context
        self._max_new_tokens = max_new_tokens
        self._few_shot = few_shot
        self._num_examples = num_examples
        self._retriever = retriever
        self._top_k = top_k
        self._documents_prompt = documents_prompt or DOCUMENTS_PROMPT

    def prompts(self, way: Way, questions: Sequence[AskedQuestion]) -> Prompts:
        """The questions as a way asks them."""
        if not (way.has_examples or way.has_documents):
            return Prompts([Prompt(one.prompt_ids) for one in questions])
        made, searching = [], 0.0
        for one in track(questions, f"prompts: {way.title}", len(questions)):
            started = time.perf_counter()
            examples = self._examples(one) if way.has_examples else []
            found = self._found(one) if way.has_documents else []
            searching += time.perf_counter() - started
            made.append(self._with(one, examples) if way.has_examples else self._on(one, found))
        return Prompts(made, searching / max(1, len(questions)))

    def _examples(self, question: AskedQuestion) -> list[Turns]:
        assert self._few_shot is not None
        return self._few_shot.like(question.text, self._num_examples)

    def _found(self, question: AskedQuestion) -> list[Found]:
        assert self._retriever is not None
        (found,) = self._retriever.search([question.text], self._top_k)
        return found

    def _with(self, question: AskedQuestion, examples: Sequence[Turns]) -> Prompt:
        """The question after as many examples as fit, the most similar one last."""
        system = [m for m in question.messages if m["role"] == "system"]
        rest = [m for m in question.messages if m["role"] != "system"]

        def ids(kept: Sequence[Turns]) -> list[int]:
            told = [message for turns in reversed(kept) for message in turns]
            return self._renderer.ids([*system, *told, *rest])

        tokens, kept = fitting(examples, ids, self._budget(question))
        return Prompt(tokens, examples=len(kept))

    def _on(self, question: AskedQuestion, found: Sequence[Found]) -> Prompt:
        """The question with as many of the documents as fit."""

        def ids(kept: Sequence[Found]) -> list[int]:
            return self._renderer.ids(
                with_documents(question.messages, kept, prompt=self._documents_prompt)
            )

        tokens, kept = fitting(found, ids, self._budget(question))
        return Prompt(tokens, found=tuple(kept))

    def _budget(self, question: AskedQuestion) -> int | None:
        if self._context is None:
            return None
        wanted = min(self._max_new_tokens, self._context // 2)
        return self._context - max(wanted, len(question.answer_ids))
