"""`lorakit demo`: the whole way on the built-in base and data, told as it happens."""

from __future__ import annotations

import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorakit.cli.check import show_check
from lorakit.cli.claims import Claim, claims
from lorakit.cli.merge import merge_run, show_merge
from lorakit.cli.new import TEMPLATES
from lorakit.cli.output import console, show_sets, stdout_for_results, visible
from lorakit.cli.plan import show_plan
from lorakit.cli.train import show_training
from lorakit.errors import InputError, RunError
from lorakit.recipe import load_recipe
from lorakit.run_folder import RunFolder, find_run

if TYPE_CHECKING:
    from lorakit.cli.chat.dialogue import Dialogue
    from lorakit.finetune import Outcome
    from lorakit.lint.check import CheckReport
    from lorakit.ship.serving import ServedRun

RECIPE = TEMPLATES / "demo.yaml"
MERGED = "merged"
# Columns of a paragraph.
PROSE_WIDTH = 88
# Answers in this style are under 200 tokens; a base that never ends is cut here.
MAX_NEW_TOKENS = 200


def command(
    output: Annotated[Path, typer.Option(metavar="DIR", help="The run folder; it is made.")] = Path(
        "runs/demo"
    ),
) -> None:
    """The whole way on the built-in base and data, in minutes.

    On a CPU, offline: plans, checks, trains, measures before and after, merges and talks, and says
    at each step what happens and which command does it. Exits 1 when a claim does not hold on this
    machine.

    \b
    Example:
      lorakit demo
      lorakit demo --output /tmp/demo
    """
    Demo(output).run()


@dataclass(frozen=True)
class HeldOut:
    """A row that is not trained on."""

    system: str | None
    question: str
    reference: str


class Demo:
    """The steps in their order, each told before it is done.

    Args:
        folder: where the run goes.

    Raises:
        InputError: it holds a finished demo, or something else.
    """

    def __init__(self, folder: Path) -> None:
        refuse_finished(folder)
        self._folder = folder
        self._resume = (folder / "recipe.yaml").is_file()
        self._recipe = load_recipe(RECIPE)
        self._recipe.output.dir = str(folder)
        find_run(self._recipe, resume=self._resume)  # before anything is told
        self._out = console()
        self._num_steps = 0

    def run(self) -> None:
        """Go the whole way.

        Raises:
            RunError: a claim does not hold on this machine.
        """
        started = time.monotonic()
        self._open()
        self._plan()
        held_out = self._check()
        self._before(held_out)
        outcome = self._train()
        claimed = self._prove(outcome)
        served = self._load()
        self._side_by_side(served, [held_out[0], held_out[-1]])
        self._merge()
        self._talk(served, held_out[:2])
        self._close(time.monotonic() - started)
        demand_proof(claimed)

    def _open(self) -> None:
        self._out.print("lorakit demo", style="bold")
        self._tell(
            "A small language model, which ships with lorakit, has read medical English but does "
            "not know how your hospital writes. Fine-tuning teaches it: on a few thousand "
            "examples, on this machine, offline, in a few minutes. Each step below names the "
            "command that does the same. What is fine-tuned is written down in a recipe."
        )
        self._command("lorakit new demo.yaml --template demo")
        if self._resume:
            self._tell(f"{self._folder} holds a demo that was interrupted: it goes on from there.")

    def _plan(self) -> None:
        self._step(
            "Plan: what will it take?",
            "From the recipe and the model's config alone: how many parameters train, how much "
            "memory the parts need, how many steps there will be. Only a small adapter (DoRA) "
            "trains; the model itself stays frozen, in 4 bits (NF4).",
            "lorakit plan demo.yaml",
        )
        with stdout_for_results():
            from lorakit.plan.plan import plan

            planned = plan(self._recipe)
        show_plan(planned)

    def _check(self) -> list[HeldOut]:
        self._step(
            "Check: does the data train what it should?",
            "Every row is turned into the tokens the model will see. Only the answers are trained, "
            "not the questions; here is one example, with what is trained in brackets and green.",
            "lorakit check demo.yaml",
        )
        with stdout_for_results():
            from lorakit.lint.check import check

            report = check(self._recipe)
        show_check(report, 1)
        return held_out_rows(report, "in_domain", 2) + held_out_rows(report, "out_of_domain", 1)

    def _before(self, held_out: list[HeldOut]) -> None:
        asked = held_out[0]
        self._step(
            "Before: what does the base answer?",
            "A question from the held-out set, which is never trained on. The base was never shown "
            "the style that is wanted.",
            f"lorakit chat {self._folder} --base   (once it is trained)",
        )
        with stdout_for_results():
            from lorakit.base.from_recipe import load_base_of
            from lorakit.cli.chat.dialogue import Dialogue
            from lorakit.generate import SamplingSettings

            model, tokenizer = load_base_of(self._recipe.base)
            settings = SamplingSettings(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)
            base = Dialogue(model, tokenizer, settings, name="base", system=asked.system)
            answer = base.ask(asked.question)
        self._show("question", asked.question)
        self._show("base", answer.text)
        self._show("wanted", asked.reference)

    def _train(self) -> Outcome:
        self._step(
            "Train",
            "The examples are shown to the model a few times. Each step moves the adapter, "
            "so that the wanted answers become more probable: the loss falls. Checkpoints are "
            "written on the way. Afterwards base and adapter are measured on three sets of rows "
            "that were not trained on.",
            f"lorakit train demo.yaml --output {self._folder}",
        )
        with stdout_for_results():
            from lorakit.finetune import finetune

            outcome = finetune(self._recipe, resume=self._resume)
        show_training(outcome)
        return outcome

    def _prove(self, outcome: Outcome) -> list[Claim]:
        self._step(
            "Prove: is it better, and what did it forget?",
            "in_domain: new questions like those in training. out_of_domain: other topics and "
            "wordings. retention: other tasks, which must not get worse. An interval that excludes "
            "zero means the difference is no accident of the rows chosen.",
            f"lorakit evaluate {self._folder}",
        )
        show_sets(outcome.evaluation)
        claimed = claims(outcome.evaluation)
        self._tell("What this demo claims, and whether it holds on this machine:")
        for claim in claimed:
            self._out.print(str(claim))
        if outcome.evaluation["retention"].verdict == "worse":
            self._tell(
                "It forgot: on the retention set the tuned model is worse than its base by more "
                "than the margin. More rows of other tasks in data.train, a lower learning rate "
                "or fewer epochs keep more."
            )
        return claimed

    def _load(self) -> ServedRun:
        with stdout_for_results():
            from lorakit.ship.serving import load_run

            return load_run(self._folder)

    def _open_dialogues(self, served: ServedRun, row: HeldOut, *, base: bool) -> list[Dialogue]:
        from lorakit.cli.chat import open_dialogues
        from lorakit.generate import SamplingSettings

        settings = SamplingSettings(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)
        return open_dialogues(served, settings, base=base, system=row.system or "")

    def _side_by_side(self, served: ServedRun, held_out: list[HeldOut]) -> None:
        self._step(
            "Side by side: the same questions, before and after",
            "One question like those in training, one on another topic. Both models take the most "
            "probable token each time, so this repeats exactly.",
            f"lorakit chat {self._folder} --base --greedy",
        )
        from lorakit.cli.chat.terminal import show_side_by_side

        for row in held_out:
            with stdout_for_results():
                dialogues = self._open_dialogues(served, row, base=True)
                texts = {dialogue.name: dialogue.ask(row.question).text for dialogue in dialogues}
            self._show("question", row.question)
            show_side_by_side(self._out, texts)
            self._out.print()

    def _merge(self) -> None:
        self._step(
            "Merge: one plain model to ship",
            "The adapter is merged into the weights, written as an ordinary transformers folder, "
            "loaded again, and its logits are compared with those of base and adapter: what you "
            "ship is what was trained.",
            f"lorakit merge {self._folder} --output {self._folder / MERGED}",
        )
        with stdout_for_results():
            report = merge_run(self._folder, self._folder / MERGED)
        show_merge(report)

    def _talk(self, served: ServedRun, rows: list[HeldOut]) -> None:
        self._step(
            "Talk to it",
            "Two messages to the tuned model; /reset starts a new conversation between them. In a "
            "terminal answers appear word by word, in a pipe --history keeps the conversation.",
            f"lorakit chat {self._folder}",
        )
        from lorakit.cli.chat.lines import talk_in_lines

        dialogues = self._open_dialogues(served, rows[0], base=False)
        said = [row.question.replace("\n", " ") for row in rows]
        for line in (said[0], "/reset", said[1]):
            self._show("you", line)
            talk_in_lines(dialogues, [line], sys.stdout, history=True)

    def _close(self, seconds: float) -> None:
        self._out.print()
        self._out.rule("Done", align="left")
        self._tell(
            f"All of it took {seconds / 60:.1f} minutes. The report with curves, tables and sample "
            f"answers, one page that opens offline: {RunFolder(self._folder).report}"
        )
        self._tell("Next, with data of your own (a CSV or JSONL file of questions and answers):")
        for line in ("new recipe.yaml", "check recipe.yaml", "train recipe.yaml"):
            self._command(f"lorakit {line}")

    def _step(self, title: str, words: str, equivalent: str) -> None:
        self._num_steps += 1
        self._out.print()
        self._out.rule(f"{self._num_steps}. {title}", align="left")
        self._tell(words)
        self._command(equivalent)

    def _tell(self, words: str) -> None:
        width = min(PROSE_WIDTH, self._out.width)
        self._out.print(textwrap.fill(words, width, break_on_hyphens=False))

    def _command(self, line: str) -> None:
        self._out.print(f"$ {line}", style="bold cyan")

    def _show(self, name: str, text: str) -> None:
        self._out.print(f"{name}:", style="bold")
        self._out.print(visible(text.strip() or "(nothing)"))


def refuse_finished(folder: Path) -> None:
    """Raise InputError where a demo has been gone through already."""
    if (folder / MERGED / "config.json").is_file():
        raise InputError(
            f"{str(folder)!r} holds a finished demo. Its report is {RunFolder(folder).report}; "
            f"talk to it with `lorakit chat {folder} --base`. To go through it again, remove the "
            "folder or name another with --output."
        )


def held_out_rows(report: CheckReport, name: str, count: int) -> list[HeldOut]:
    """The first rows of a set, as question and wanted answer."""
    rows = []
    for row in report.sets[name].rows[:count]:
        said: dict[str, str] = {}
        for message in row.values["messages"]:
            said.setdefault(message["role"], message["content"])
        rows.append(HeldOut(said.get("system"), said["user"], said["assistant"]))
    return rows


def demand_proof(claimed: list[Claim]) -> None:
    """Raise RunError where a claim does not hold."""
    failed = [claim.text for claim in claimed if not claim.holds]
    if failed:
        raise RunError(
            f"on this machine the demo does not show what it should: {'; '.join(failed)}. The run "
            "is kept; please report this with its report."
        )
