"""The whole of `lorakit compare`: a recipe and its finished run in, five ways measured out."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.base.families import why_not_packed
from lorakit.base.stops import stop_ids_of
from lorakit.compare.comparable import SET, prices_of, primary_of, questions_of, retriever_of
from lorakit.compare.costs import Costs, training_seconds
from lorakit.compare.few_shot import FewShot
from lorakit.compare.measure import LOSS, Measured, Measuring, answer_in_turns, measure
from lorakit.compare.prompts import WAYS, PromptBuilder, Prompts, Way
from lorakit.compare.questions import AskedQuestion
from lorakit.compare.recommend import Terms
from lorakit.compare.table import Table, WayRow, conclude, higher_is_better, qualities
from lorakit.data.named_sets import context_of, prepare_named_sets
from lorakit.errors import InputError
from lorakit.evaluate.judge import LOSS_METRICS
from lorakit.evaluate.measures import Measures
from lorakit.files import write_atomically, write_json
from lorakit.generate import SamplingSettings
from lorakit.plan.machines import machine_of
from lorakit.recipe import Recipe
from lorakit.retrieve.retriever import Retriever
from lorakit.run_folder import RunFolder, commit, finished_run, with_absolute_paths
from lorakit.ship.serving import ServedRun, load_run

# What a run was trained on decides which rows it has not seen, and how they are asked.
SAME_SECTIONS = ("base", "data")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WaysCompared:
    """What `compare_ways` found.

    Attributes:
        run: the run that was measured; compare.json and compare_answers.jsonl are in it.
        table: numbers and verdict.
        facts: what they were measured with.
    """

    run: RunFolder
    table: Table
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The shape of compare.json and `compare --json`: see docs/compare.md."""
        return self.table.to_json() | self.facts


def compare_ways(recipe: Recipe, run: str | Path) -> WaysCompared:
    """Let the base with a plain prompt, few-shot, retrieval, the tuned model, and that with
    retrieval answer the same held-out questions, and write RUN/compare.json.

    Args:
        recipe: its sections `evaluate` and `compare` say what is measured.
        run: a finished run of it.

    Raises:
        InputError: a run of another base or other data, no held-out questions, or documents or
            prices that cannot be read.
        RunError: the run has not finished.
    """
    folder, trained = finished_run(Path(run))
    together = _of_run(recipe, trained, folder)
    wanted = together.compare
    measures = Measures.from_section(together.evaluate, seed=together.train.seed)
    # What can be wrong with the input is found before the model is loaded.
    primary = primary_of(measures)
    stages = [folder] if trained.warm_start is None else [folder.warm_start, folder]
    seconds = {"training": sum(training_seconds(stage.metrics) for stage in stages)}
    prices = prices_of(wanted)
    retriever = retriever_of(wanted)
    served = load_run(folder.path)
    costs = Costs(machine_of(served.model.device), prices, wanted.api)
    sets = prepare_named_sets(together, served.tokenizer, served.model.config)
    stop_ids = stop_ids_of(served.model, sets.train.stop_ids)
    questions, available = questions_of(
        sets, served.tokenizer, stop_ids, wanted, together.train.seed
    )
    few_shot = FewShot(sets.train.conversations, seed=together.train.seed)
    seconds |= {
        "indexing documents": 0.0 if retriever is None else retriever.seconds,
        "indexing examples": few_shot.seconds,
    }
    how = _measuring(together, measures, served, stop_ids)
    builder = PromptBuilder(
        served.tokenizer,
        context=context_of(served.model.config),
        max_new_tokens=how.settings.max_new_tokens,
        few_shot=few_shot,
        num_examples=wanted.few_shot,
        retriever=retriever,
        top_k=wanted.top_k,
        documents_prompt=wanted.prompt,
    )
    not_measured: dict[str, str] = {}
    measured = _measured(served, builder, questions, how, retriever, not_measured)
    rows = _rows(measured, questions, costs, seconds, seed=measures.seed)
    terms = Terms(
        len(questions),
        wanted.margin,
        wanted.calls,
        primary,
        higher_is_better(primary),
        costs.basis.unit,
    )
    recommendation, against, repaid = conclude(rows, primary, terms)
    table = Table(
        SET,
        available,
        questions,
        primary,
        {name: higher_is_better(name) for name in how.metrics},
        wanted.margin,
        wanted.calls,
        rows,
        not_measured,
        costs.basis,
        against,
        repaid,
        recommendation,
        tuple(_notes(measured, how.settings.max_new_tokens)),
    )
    facts = _facts(served, prices.source, machine_of(served.model.device), retriever, few_shot)
    compared = WaysCompared(folder, table, facts)
    _write(compared)
    return compared


def _of_run(recipe: Recipe, trained: Recipe, run: RunFolder) -> Recipe:
    """The run's recipe with what is to be measured by the given one.

    Raises:
        InputError: the run was trained on another base or other data.
    """
    given, made = with_absolute_paths(recipe).model_dump(), trained.model_dump()
    other = [name for name in SAME_SECTIONS if given[name] != made[name]]
    if other:
        changed = [
            f"{name}.{key} {made[name][key]!r}, the recipe says {given[name][key]!r}"
            for name in other
            for key in made[name]
            if given[name][key] != made[name][key]
        ]
        raise InputError(
            f"the run {str(run.path)!r} is of another recipe: it has {'; '.join(changed)}. Name a "
            f"run of this recipe with --run, or compare {run.recipe}."
        )
    return trained.model_copy(update={"evaluate": recipe.evaluate, "compare": recipe.compare})


def _measuring(
    recipe: Recipe, measures: Measures, served: ServedRun, stop_ids: Sequence[int]
) -> Measuring:
    config = served.model.config
    context = context_of(config) or recipe.evaluate.max_new_tokens
    losses = [LOSS for name in measures.metrics if name in LOSS_METRICS]
    return Measuring(
        settings=SamplingSettings(
            max_new_tokens=min(recipe.evaluate.max_new_tokens, context),
            temperature=0.0,
            stop_ids=tuple(stop_ids),
        ),
        metrics=tuple(dict.fromkeys([primary_of(measures), *losses, *measures.scorers])),
        scoring=measures.scoring,
        timed=recipe.compare.timed,
        token_budget=recipe.train.forward_tokens,
        packed=recipe.data.packing and why_not_packed(config) is None,
    )


def _measured(
    served: ServedRun,
    builder: PromptBuilder,
    questions: Sequence[AskedQuestion],
    how: Measuring,
    retriever: Retriever | None,
    not_measured: dict[str, str],
) -> list[Measured]:
    """Measure every way that can be; why others cannot goes into `not_measured`."""
    asked: list[tuple[Way, Prompts]] = []
    for way in WAYS:
        if way.has_documents and retriever is None:
            not_measured[way.name] = "no documents: name some with compare.documents or --documents"
            continue
        prompts = builder.prompts(way, questions)
        if why := _why_not(way, prompts):
            not_measured[way.name] = why
        else:
            asked.append((way, prompts))
    log.info(
        "%d questions, answered by %s",
        len(questions),
        ", ".join(way.title for way, _ in asked),
    )
    model, tokenizer = served.model, served.tokenizer
    answered = answer_in_turns(model, tokenizer, asked, how)
    return [
        measure(model, way, prompts, questions, answers, how.of_way(place))
        for place, ((way, prompts), answers) in enumerate(zip(asked, answered, strict=True))
    ]


def _why_not(way: Way, prompts: Prompts) -> str | None:
    """Why a way whose prompts hold nothing of its own is not measured: it would be another."""
    if way.has_examples and not any(prompt.examples for prompt in prompts.prompts):
        return "no training example is like a question and fits into the context beside it"
    if way.has_documents and not any(prompt.found for prompt in prompts.prompts):
        return "no document has a word of a question and fits into the context beside it"
    return None


def _rows(
    measured: Sequence[Measured],
    questions: Sequence[AskedQuestion],
    costs: Costs,
    seconds: dict[str, float],
    *,
    seed: int,
) -> list[WayRow]:
    quality = qualities(measured, questions, seed=seed)
    return [
        WayRow(one, quality[one.way.name], costs.per_call(one), costs.setup(one.way, seconds))
        for one in measured
    ]


def _notes(measured: Sequence[Measured], max_new_tokens: int) -> list[str]:
    """What a reader of the table has to know."""
    notes = []
    for one in measured:
        count, title = len(one.answers), one.way.title
        if one.num_cut * 10 >= count:
            notes.append(
                f"{title}: {one.num_cut} of {count} answers did not end within {max_new_tokens} "
                "tokens (evaluate.max_new_tokens)"
            )
        for has, what in (
            (one.way.has_examples, "example"),
            (one.way.has_documents, "document"),
        ):
            without = sum(not (p.examples or p.found) for p in one.prompts.prompts)
            if has and without:
                notes.append(f"{title}: {without} of {count} prompts have no {what} in them")
    return notes


def _facts(
    served: ServedRun,
    prices: Path,
    machine: str,
    retriever: Retriever | None,
    few_shot: FewShot,
) -> dict[str, Any]:
    documents = None
    if retriever is not None:
        documents = {
            "files": len({chunk.path for chunk in retriever.chunks}),
            "chunks": len(retriever.chunks),
        }
    return {
        "run": str(served.run.path.absolute()),
        "base": served.recipe.base.model,
        "machine": machine,
        "prices": str(prices),
        "documents": documents,
        "examples_to_choose_from": few_shot.pool,
        "commit": commit(),
    }


def _write(compared: WaysCompared) -> None:
    lines = [
        json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        for line in compared.table.answers_to_json()
    ]
    write_atomically(compared.run.compare_answers, "".join(lines).encode())
    write_json(compared.run.compare, compared.to_json())
