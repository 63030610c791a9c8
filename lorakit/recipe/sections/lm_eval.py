"""`evaluate.lm_eval`: tasks of EleutherAI's lm-eval."""

from __future__ import annotations

from pydantic import Field

from lorakit.recipe.sections.section import NonNegativeInt, PositiveInt, Section


class LmEvalSection(Section):
    """Tasks that lm-eval runs on the model in memory, base and tuned."""

    tasks: list[str] = Field(min_length=1, description="Tasks or groups by lm-eval's names.")
    include_path: str | None = Field(
        None,
        description="Folder of task YAML files of your own. They are programs: lm-eval runs what "
        "they name.",
    )
    limit: PositiveInt | None = Field(None, description="Documents of each task; null: all.")
    num_fewshot: NonNegativeInt | None = Field(
        None, description="Examples in the prompt; null: as the task says."
    )
    apply_chat_template: bool = Field(
        False, description="Ask in the template that was trained with, instead of plain text."
    )
