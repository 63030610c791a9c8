"""Rows a minute that the linter reads, and where its time goes.

    python benchmarks/lint_speed.py                    # real and made sets: some minutes
    python benchmarks/lint_speed.py --only gsm8k --pairs 1

Each measurement is a process of its own that does what `lorakit check` does, with nothing tokenized
before: read, render and hold to the contract; plan; run every rule. Imports and loading the
tokenizer are not counted. Rows are those of train and of all other sets. What several rules share
(texts, near duplicates, languages) is made first and timed by itself. Speed is by CPU seconds, of
all threads and of child processes: hardly anything runs in parallel, so that a
machine with nothing else to do takes about as long, and what others do on it hardly counts.

Exits with 1 when on any set of 1,000 rows and more the whole reads fewer than 20,000 rows a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import psutil
import yaml
from contest import by_turns, did_the_task, in_a_process, results_file, spread, table, work_folder
from page import command, machine
from real_sets import REAL, million_sets, recipe_of

SHARED = Path(__file__).parents[2] / "shared" / "data"
MADE_ROWS = 20_000
WANTED, FEW_ROWS = 20_000, 1_000
NAMES = ("medquad", "gsm8k", "mixture", "self-instruct", "shakespeare", "demo")
SHARED_BY_RULES = ("train", "held_out", "repeats", "languages", "languages_held_out")
SHOWN = 6
COLUMNS = (
    "set",
    "rows",
    "rows a CPU minute",
    "wall s",
    "CPU s: rows read and tokenized",
    "plan",
    "rules",
    "the dearest, CPU s",
)


def main() -> int:
    """Measure every set that was asked for; print the table and write it."""
    if did_the_task(answer):
        return 0
    options = parse()
    sets = {one.name: one for one in (*REAL, *million_sets(MADE_ROWS)) if one.name in options.only}
    with work_folder(options.workdir) as folder:
        recipes = {}
        for name, one in sets.items():
            place = folder / name
            place.mkdir(parents=True, exist_ok=True)
            recipes[name] = place / "recipe.yaml"
            recipes[name].write_text(yaml.safe_dump(recipe_of(one, options.data, place)), "utf-8")
        rounds: Counter[str] = Counter()

        def measure(name: str) -> dict[str, Any]:
            rounds[name] += 1
            cached = recipes[name].with_name(f"tokens-{os.getpid()}-{rounds[name]}")
            return in_a_process(
                __file__,
                {"recipe": str(recipes[name]), "cache": str(cached)},
                all_cores_tokenize=True,
            )

        measured = by_turns(list(sets), options.pairs, measure)
    text = report(measured)
    print(text)
    if set(sets) == set(parse_names()):
        path = results_file("lint_speed")
        path.write_text(f"# Speed of linting\n\n{text}\n", "utf-8")
        path.with_suffix(".json").write_text(json.dumps(measured, indent=1) + "\n", "utf-8")
    slow = too_slow(measured)
    print("\n".join(slow), file=sys.stderr)
    return 1 if slow else 0


def parse_names() -> list[str]:
    """The sets that are measured where none is named."""
    return [*NAMES, *(one.name for one in million_sets(MADE_ROWS))]


def parse() -> argparse.Namespace:
    """What was asked for; says so where the data are not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = parse_names()
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="nothing is kept")
    parser.add_argument("--pairs", type=int, default=3, help="how often every set is measured")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of the real sets")
    parser.add_argument("--workdir", type=Path, help="where recipes and made files are kept")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"{options.data} is needed; name the folder of the real sets with --data.")
    return options


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Check one recipe as `lorakit check` does, part by part."""
    from lorakit.base.from_recipe import load_tokenizer_of_base
    from lorakit.data.named_sets import prepare_named_sets
    from lorakit.lint import rules
    from lorakit.lint.facts import Facts
    from lorakit.lint.hardware import hardware_of
    from lorakit.plan.plan import plan
    from lorakit.plan.rows import Sets
    from lorakit.recipe import load_recipe

    recipe = load_recipe(task["recipe"])
    tokenizer, config = load_tokenizer_of_base(recipe.base)
    began = time.perf_counter()
    parts: dict[str, float] = {}

    def timed(name: str, do: Callable[[], Any]) -> Any:
        before = cpu_seconds()
        made = do()
        parts[name] = cpu_seconds() - before
        return made

    sets = timed(
        "rows", lambda: prepare_named_sets(recipe, tokenizer, config, cache_dir=task["cache"])
    )
    make_plan = cache(lambda: plan(recipe, sets=Sets.of(sets)))
    timed("plan", make_plan)
    facts = Facts(recipe, sets, tokenizer, config, hardware_of(recipe.base), make_plan)
    for name in SHARED_BY_RULES:
        timed(f"({name})", partial(getattr, facts, name))
    found = [
        one.id
        for rule in rules()
        for one in timed(rule.ID, partial(lambda r: list(r.find(facts)), rule))
    ]
    rows = sum(one.read for one in {id(one): one for one in sets.by_name().values()}.values())
    return {
        "rows": rows,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": parts,
        "found": found,
        "load": os.getloadavg()[0],
    }


def cpu_seconds() -> float:
    """CPU seconds of this process, all threads, and of its child processes.

    Those that still run are asked as well: the one that renders templates runs as long as this.
    """
    this = psutil.Process()
    return sum(sum(one.cpu_times()[:4]) for one in (this, *this.children(recursive=True)))


def speed(one: dict[str, Any]) -> float:
    """Rows a minute of CPU time, of the whole."""
    return 60 * one["rows"] / sum(one["cpu_seconds"].values())


def rules_seconds(one: dict[str, Any]) -> float:
    """CPU seconds of the rules, with what they share."""
    return sum(value for name, value in one["cpu_seconds"].items() if name not in ("rows", "plan"))


def too_slow(measured: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Sets that are read more slowly than is promised, in words."""
    medians = {name: statistics.median(map(speed, many)) for name, many in measured.items()}
    return [
        f"{name}: {medians[name]:,.0f} rows a minute, fewer than {WANTED:,}"
        for name, many in measured.items()
        if many[0]["rows"] >= FEW_ROWS and medians[name] < WANTED
    ]


def table_line(name: str, many: list[dict[str, Any]]) -> list[str]:
    """A set's line of the table."""
    parts = {
        part: statistics.median(one["cpu_seconds"][part] for one in many)
        for part in many[0]["cpu_seconds"]
    }
    dearest = sorted(
        (part for part in parts if part not in ("rows", "plan")),
        key=parts.__getitem__,
        reverse=True,
    )
    return [
        name,
        f"{many[0]['rows']:,}",
        spread([speed(one) for one in many], ",.0f"),
        spread([one["seconds"] for one in many], ".1f"),
        f"{parts['rows']:.1f}",
        f"{parts['plan']:.1f}",
        spread([rules_seconds(one) for one in many], ".1f"),
        ", ".join(f"{part} {parts[part]:.1f}" for part in dearest[:SHOWN]),
    ]


def report(measured: dict[str, list[dict[str, Any]]]) -> str:
    """The table, and what it stands for."""
    loads = [one["load"] for many in measured.values() for one in many]
    return (
        f"{table(COLUMNS, [table_line(name, many) for name, many in measured.items()])}\n\n"
        "Rows of all sets of the recipe. Speed and wall s: of all of `check` but imports and the "
        "tokenizer's file. CPU seconds are medians. In brackets: what several rules share. "
        f"Load average of the machine: {min(loads):.1f} to {max(loads):.1f}.\n\n"
        f"Written by `{command()}`. {machine()}"
    )


if __name__ == "__main__":
    sys.exit(main())
