"""What is said about an answer besides the answer."""

from __future__ import annotations

from lorakit.cli.chat.dialogue import Answer


def remarks(answer: Answer) -> list[str]:
    """What a person has to know to read the answer rightly."""
    said = []
    if answer.num_forgotten:
        turns = "turn" if answer.num_forgotten == 1 else f"{answer.num_forgotten} turns"
        said.append(f"the context is full: the oldest {turns} dropped from the conversation")
    if answer.is_stopped:
        said.append("stopped")
    if answer.is_cut:
        said.append(f"cut after {answer.num_tokens} tokens; --max-new-tokens allows more")
    if not answer.text.strip() and not answer.is_stopped:
        said.append("the model said nothing; the question is not remembered")
    return said


def speed(answer: Answer) -> str:
    """`42 tokens, 85 tokens/s`."""
    return f"{answer.num_tokens} tokens, {answer.num_tokens / max(answer.seconds, 1e-9):.0f}/s"


def sources(answer: Answer) -> list[str]:
    """`[1] guide.md:12`, a line for each document the model was given."""
    return [f"[{one.number}] {one.chunk.source}" for one in answer.found]
