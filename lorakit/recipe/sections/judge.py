"""`evaluate.judge`: a model that compares answers."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lorakit.recipe.sections.section import PositiveInt, Section


class JudgeSection(Section):
    """A judge model behind an OpenAI-compatible endpoint; answers are sent there."""

    url: str = Field(
        description="Where the endpoint begins, such as http://localhost:8000/v1: questions, "
        "references and answers are sent to URL/chat/completions."
    )
    model: str = Field(min_length=1, description="The judge, as the endpoint names it.")
    api_key_env: str | None = Field(
        None, description="The environment variable that holds the key; the key stands nowhere."
    )
    rubric: str | None = Field(
        None, description="What makes an answer the better one, instead of lorakit's words."
    )
    max_concurrency: PositiveInt = Field(4, description="Requests at a time.")
    parameters: dict[str, Any] = Field(
        default_factory=lambda: {"temperature": 0, "max_tokens": 1024},
        description="What else a request says; some models take other names.",
    )
