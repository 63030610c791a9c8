"""A chat over documents: what is found goes before the question, and is named under the answer."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from lorakit.cli import main
from lorakit.cli.chat.dialogue import Dialogue, Documents
from lorakit.cli.chat.terminal import TerminalChat
from lorakit.data.prompt import PromptRenderer
from lorakit.generate import SamplingSettings, generate
from lorakit.retrieve.chunks import Chunk
from lorakit.retrieve.retriever import Retriever
from lorakit.ship.serving import ServedRun

GREEDY = SamplingSettings(max_new_tokens=8, temperature=0.0)
TEXTS = ("Honey helps cough.", "Rest helps fever.", "Cough: " + "call us. " * 9)


def documents(top_k: int = 3) -> Documents:
    chunks = [Chunk(text, "guide.md", n) for n, text in enumerate(TEXTS, 1)]
    return Documents(Retriever(chunks), top_k, prompt="{documents}|{question}")


def dialogue(served: ServedRun, top_k: int = 3) -> Dialogue:
    return Dialogue(served.model, served.tokenizer, GREEDY, documents=documents(top_k))


def test_an_answer_is_that_to_documents_and_question_and_names_them(served: ServedRun) -> None:
    talk = dialogue(served, top_k=1)
    first = talk.ask("Cough?")
    messages = [{"role": "user", "content": f"[1] {TEXTS[0]}|Cough?"}]
    prompt = PromptRenderer(served.tokenizer).ids(messages)
    (expected,) = generate(served.model, served.tokenizer, [prompt], GREEDY)
    assert first.text == expected.text
    assert [one.chunk.source for one in first.found] == ["guide.md:1"]
    # Only the question is remembered: the next turn's documents are its own.
    assert talk.messages()[0] == {"role": "user", "content": "Cough?"}
    assert [one.chunk.line for one in talk.ask("Fever?").found] == [2]
    assert talk.ask("Zebra?").found == ()


def test_documents_that_do_not_fit_are_dropped_and_so_are_old_turns(served: ServedRun) -> None:
    """The context is 256 tokens, of some two characters each."""
    talk = dialogue(served)
    assert [one.chunk.line for one in talk.ask("Cough?").found] == [1, 3]
    long = "Cough? " + "x" * 180
    answer = talk.ask(long)
    assert [one.chunk.line for one in answer.found] == [1]
    assert answer.num_forgotten == 1
    assert talk.turns[-1].question == long


def test_in_a_pipe_sources_follow_the_answer(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    guide = tmp_path / "guide.md"
    guide.write_text(f"{TEXTS[0]}\n\n{TEXTS[1]}\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Cough?\nZebra?\n"))
    options = ["--documents", str(tmp_path), "--greedy", "--max-new-tokens", "8"]
    assert main(["chat", str(tiny_run), *options]) == 0
    shown = capsys.readouterr().out
    assert shown.count(f"\n[1] {guide}:1\n") == 1  # the second question finds nothing
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["chat", str(tiny_run), "--documents", str(tmp_path / "none")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_in_a_terminal_too(
    served: ServedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["Cough?"])

    def read(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    TerminalChat([dialogue(served)], title="t").run()
    shown = capsys.readouterr().out
    assert "[1] guide.md:1\n[2] guide.md:3\n" in shown
