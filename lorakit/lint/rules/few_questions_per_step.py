"""Steps of a policy gradient that see few questions, or small groups."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts
from lorakit.recipe.cycle_sizes import cycle_sizes

ID = "few-questions-per-step"
SEVERITIES = ("warning", "note")
TITLE = "Steps of a policy gradient that see few questions, or small groups"
REASON = (
    "A step of GRPO learns from the questions whose completions were not all alike, often half of "
    "them or fewer. With one or two questions a step, many steps learn nothing and the others "
    "what one question happened to say. A group of two or three tells little about what is usual "
    "in it: 8 to 16 are the usual choice."
)
SOURCE = "practice; DeepSeekMath (arXiv 2402.03300): 64 completions a question"
EXAMPLE = "train: {method: grpo, batch_size: 8}   # grpo.num_generations 8: one question a step"
MEND = "Raise train.batch_size, which counts completions; lower grpo.num_generations to 8 or 4."

FEW_QUESTIONS, SMALL_GROUP = 4, 4


def find(facts: Facts) -> Iterator[Finding]:
    if not facts.is_policy:
        return
    grpo = facts.recipe.grpo
    count, cycle = grpo.num_generations, cycle_sizes(grpo, facts.recipe.train.batch_size)
    # Each step of a generation sees completions of all its questions.
    parts, questions = cycle.steps_per_pass, cycle.prompts
    if questions < FEW_QUESTIONS:
        place = "step" if parts == 1 else f"generation, which {parts} steps share"
        message = (
            f"{cycle.completions} completions a {place}, in groups of {count}, are {questions} "
            f"{'question' if questions == 1 else 'questions'}: one is easily without variance, and "
            "then nothing is learned; raise batch_size"
        )
        yield Finding(ID, "warning", message, "train.batch_size")
    if count < SMALL_GROUP:
        message = f"groups of {count} completions tell little about what is usual; 8 to 16 are"
        yield Finding(ID, "note", message, "grpo.num_generations")
