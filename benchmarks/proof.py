"""Whether the verdicts can be trusted: two runs that are bad on purpose, and one that is not.

    python benchmarks/proof.py [--epochs N]

Each is the demo's recipe on the built-in base. "over-trained" sees forty rows sixty times at a high
learning rate: it must come out better in-domain and worse on retention. "shuffled answers" trains
on every row with the answer of another one: form can be learned, content cannot, so it must come
out no better on content. "as it is" is the recipe itself.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from page import command, machine, write_section
from runs import metrics_table, train

from lorakit.builtin import data_folder
from lorakit.recipe import DataSource, load_recipe

RECIPE = "recipes/demo.yaml"
SEED = 0
# Of all runs alike: the verdict rests on content, form (outline) and loss stand beside it.
MEASURED = (
    "evaluate.metrics=[loss,outline,content]",
    "evaluate.primary={in_domain: content, out_of_domain: content, retention: loss}",
)
OVER_TRAINED_ROWS = 40


def main() -> None:
    """Train the three runs and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, help="instead of the recipe's, of whole-set runs")
    epochs = parser.parse_args().epochs
    rows = [json.loads(line) for line in (data_folder() / "train.jsonl").open(encoding="utf-8")]
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spread = rows[:: len(rows) // OVER_TRAINED_ROWS][:OVER_TRAINED_ROWS]
        few = write_rows(folder / "few.jsonl", spread)
        mixed = write_rows(folder / "mixed.jsonl", with_answers_shuffled(rows))
        for title, options in options_of_runs(few, mixed, epochs).items():
            results[title] = train(RECIPE, folder / title.replace(" ", "-"), options)
            print(metrics_table("run", {title: results[title]}), flush=True)
    write_section("Verdicts on runs that are bad on purpose", text(results))


def options_of_runs(few: Path, mixed: Path, epochs: float | None = None) -> dict[str, list[str]]:
    """{title: what differs from the recipe}; `general` rows stay where the recipe has them."""
    shorter = [] if epochs is None else [f"train.num_train_epochs={epochs:g}"]
    sources = load_recipe(Path(__file__).parents[1] / RECIPE).data.train
    general = next(source for source in sources if isinstance(source, DataSource))
    return {
        "as it is": [*MEASURED, *shorter],
        "over-trained": [
            *MEASURED,
            f"data.train={few}",
            "train.num_train_epochs=60",
            "train.learning_rate=1e-2",
        ],
        "shuffled answers": [
            *MEASURED,
            *shorter,
            f"data.train=[{mixed}, {{path: {general.path}, weight: {general.weight:g}}}]",
        ],
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def with_answers_shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every row with the answer of another row that asks for the same order of sections."""
    rng = random.Random(SEED)
    shuffled = []
    for order in sorted({row["order"] for row in rows}):
        group = [row for row in rows if row["order"] == order]
        places = list(range(len(group)))
        rng.shuffle(places)
        # A cycle through a random order: nobody keeps an answer unless alone.
        answer_of = dict(zip(places, [*places[1:], *places[:1]], strict=True))
        for index, row in enumerate(group):
            answer = group[answer_of[index]]["messages"][-1]
            shuffled.append(row | {"messages": [*row["messages"][:-1], answer]})
    return shuffled


def text(results: dict[str, dict[str, Any]]) -> str:
    """The section of docs/results.md."""
    return f"""Written by `{command()}`. {machine()}

{metrics_table("run", results)}

`content` is token F1 of an answer against its own reference minus its mean F1 against the
references of other rows: 0 for an answer that would fit any question as well. Retention rests on
loss, which may rise by the recipe's margin. "over-trained" saw {OVER_TRAINED_ROWS} rows sixty times
at a high learning rate, "shuffled answers" every row with the answer of another one.
"""


if __name__ == "__main__":
    main()
