"""What `check` and `train` say of real data, and of a million made rows.

    python benchmarks/real_data.py                      # the sets of ../shared/data: some minutes
    python benchmarks/real_data.py --only gsm8k tinker  # these again
    python benchmarks/real_data.py --million            # made sets of a million rows: heavy

For each set: `lorakit check RECIPE --json`, in a process of its own and with nothing tokenized
before, then `lorakit train` with the same recipe for three steps and a small evaluation. Seconds
and peak memory are those of the whole process. Every finding goes into the JSON beside the table;
docs/rules/real_data.md says what a practitioner thinks of each.

Exits with 1 when a verb ended with anything but 0; where the page explains a finding of severity
error, `check` has to end with 1 and tell it, and `train` has to refuse.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import took
import yaml
from contest import MIB, results_file, table, work_folder
from page import command, machine
from real_sets import MILLION, REAL, RealSet, Sections, million_sets, recipe_of, shortened

from lorakit.run_folder import commit
from lorakit.train.clock import PeakMemory

SHARED = Path(__file__).parents[2] / "shared" / "data"
STEPS, EXAMPLES = 3, 8
DONE, FOUND, REFUSED = 0, 1, 2  # exit codes of lorakit
COLUMNS = (
    "set",
    "rows",
    "check",
    "findings",
    "s (CPU s)",
    "MiB",
    "train",
    "s (CPU s)",
    "peak memory",
)


@dataclass(frozen=True)
class Ended:
    """A verb that has run.

    Attributes:
        code: its exit code.
        printed: the JSON of its standard output; empty where it printed none.
        said: on standard error.
        cpu_seconds, peak_bytes: of the process and those it waited for.
    """

    code: int
    printed: dict[str, Any]
    said: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def main() -> int:
    """Check and train on every set that was asked for; print the table and write it."""
    options = parse()
    sets = million_sets(options.rows or MILLION) if options.million else REAL
    chosen = [one for one in sets if not options.only or one.name in options.only]
    path = results_file("real_data_million" if options.million else "real_data")
    measured = {} if options.rows is not None else recorded(path)
    with work_folder(options.workdir) as folder:
        for one in chosen:
            measured[one.name] = measure(one, options.data, folder / one.name)
            print(" | ".join(table_line(measured[one.name])), file=sys.stderr, flush=True)
            text = report([measured[one.name] for one in sets if one.name in measured])
            if options.rows is None:  # after each set: what was measured outlives a break
                record(path, text, list(measured.values()))
    print(text)
    faults = [fault for one in chosen for fault in bad_ends(one, measured[one.name])]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def recorded(path: Path) -> dict[str, dict[str, Any]]:
    """{name: what was measured of the set} of the results that lie there."""
    path = path.with_suffix(".json")
    return (
        {one["name"]: one for one in json.loads(path.read_text("utf-8"))} if path.is_file() else {}
    )


def record(path: Path, text: str, results: list[dict[str, Any]]) -> None:
    """Write the page and, beside it, all that was measured."""
    path.write_text(f"# check and train on data sets\n\n{text}\n", "utf-8")
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def parse() -> argparse.Namespace:
    """What was asked for; says so where the data are not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="sets; others stay as recorded")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of the real sets")
    parser.add_argument("--million", action="store_true", help="the made sets instead")
    parser.add_argument("--rows", type=int, help="of a made set, to try it out: nothing is written")
    parser.add_argument("--workdir", type=Path, help="where recipes, made files and runs are kept")
    options = parser.parse_args()
    if not options.million and not options.data.is_dir():
        parser.error(f"{options.data} is needed; name the folder of the real sets with --data.")
    if options.rows is not None and not options.million:
        parser.error("--rows is the size of the made sets; give --million too.")
    names = [one.name for one in (million_sets() if options.million else REAL)]
    unknown = sorted(set(options.only or ()) - set(names))
    if unknown:
        parser.error(f"no set is named {', '.join(unknown)}; there are {', '.join(names)}.")
    return options


def measure(real: RealSet, data: Path, folder: Path) -> dict[str, Any]:
    """Check one set and train a few steps on it."""
    if folder.is_dir():  # one of this script's own, of an earlier run
        if not (folder / "check.yaml").is_file() and any(folder.iterdir()):
            raise SystemExit(f"{folder} holds something else; give another --workdir.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    sections = recipe_of(real, data, folder)
    checked = lorakit("check", written(sections, folder / "check.yaml"), folder)
    few = shortened(sections, STEPS, EXAMPLES)
    trained = lorakit("train", written(few, folder / "train.yaml"), folder)
    ran = {name: trained.printed.get(name) for name in ("training", "memory_bytes")}
    told = folder / "run" / "data.json"
    findings = json.loads(told.read_text("utf-8"))["findings"] if told.is_file() else []
    return {
        "name": real.name,
        "commit": commit(),
        "load": round(os.getloadavg()[0], 1),
        "recipe": without_folder(sections, folder, data),
        "check": without_folder(asdict(checked), folder, data),
        "train": without_folder(
            asdict(trained) | {"printed": ran, "findings": findings}, folder, data
        ),
    }


def lorakit(verb: str, recipe: Path, folder: Path) -> Ended:
    """Run a verb with `--json` in a process of its own; what it tokenizes is kept in `folder`."""
    said = folder / f"{verb}.txt"
    printed = folder / f"{verb}.json"
    ended = took.run(
        [sys.executable, "-m", "lorakit", verb, str(recipe), "--json"],
        output=printed,
        errors=said,
        environment=dict(os.environ, HF_HUB_OFFLINE="1", LORAKIT_CACHE=str(folder / "cache")),
    )
    words = printed.read_text("utf-8").strip()
    return Ended(
        code=ended.code,
        printed=json.loads(words) if words else {},
        said=said.read_text("utf-8"),
        seconds=round(ended.seconds, 1),
        cpu_seconds=round(ended.cpu_seconds, 1),
        peak_bytes=ended.peak_bytes,
    )


def bad_ends(real: RealSet, result: dict[str, Any]) -> list[str]:
    """What ended otherwise than it has to, in words."""
    wanted = {"check": FOUND, "train": REFUSED} if real.errors else {"check": DONE, "train": DONE}
    faults = [
        f"{real.name}: {verb} ended with {result[verb]['code']}, not {code}: "
        f"{result[verb]['said'][-500:]}"
        for verb, code in wanted.items()
        if result[verb]["code"] != code
    ]
    told = {one["id"] for one in findings_of(result, "check") if one["severity"] == "error"}
    if told != set(real.errors):
        faults.append(f"{real.name}: errors {sorted(told)}, explained are {sorted(real.errors)}")
    return faults


def findings_of(result: dict[str, Any], verb: str) -> list[dict[str, str]]:
    """What a verb found."""
    found = result[verb].get("findings")
    return result[verb]["printed"].get("findings", []) if found is None else found


def counted(findings: list[dict[str, str]]) -> str:
    """`warning few-rows, note near-duplicates x2`: in the order they were told."""
    counts = Counter((one["severity"], one["id"]) for one in findings)
    words = (
        f"{severity} {name}" + (f" x{count}" if count > 1 else "")
        for (severity, name), count in counts.items()
    )
    return ", ".join(words) or "none"


def table_line(result: dict[str, Any]) -> list[str]:
    """A set's line of the table."""
    check, train = result["check"], result["train"]
    rows = check["printed"].get("rows")
    memory = train["printed"].get("memory_bytes")
    return [
        result["name"],
        "refused" if rows is None else f"{rows['kept']:,} of {rows['read']:,}",
        str(check["code"]),
        counted(findings_of(result, "check")),
        f"{check['seconds']:.1f} ({check['cpu_seconds']:.1f})",
        f"{check['peak_bytes'] / MIB:,.0f}",
        str(train["code"]),
        f"{train['seconds']:.1f} ({train['cpu_seconds']:.1f})",
        "" if memory is None else PeakMemory(**memory).describe().removeprefix("memory: "),
    ]


def report(results: list[dict[str, Any]]) -> str:
    """The table, and what it stands for."""
    besides = []
    for one in results:
        new = only_told_by_train(one)
        if new:
            besides.append(f"{one['name']}: {counted(new)}")
    commits = sorted({str(one["commit"]) for one in results})
    loads = [one["load"] for one in results]
    return (
        f"{table(COLUMNS, [table_line(one) for one in results])}\n\n"
        f"Rows: kept for training, of those read for it. Seconds and MiB: of the whole process. "
        f"`train` ran {STEPS} steps and measured losses of {EXAMPLES} examples a set. "
        f"Found by it and not by `check`: {'; '.join(besides) or 'nothing'}. "
        f"Load average of the machine: {min(loads)} to {max(loads)}. "
        f"Measured at commit {', '.join(commits)}.\n\n"
        f"Written by `{command()}`. {machine()}"
    )


def only_told_by_train(result: dict[str, Any]) -> list[dict[str, str]]:
    """Findings of ids that `check` did not tell."""
    known = {one["id"] for one in findings_of(result, "check")}
    return [one for one in findings_of(result, "train") if one["id"] not in known]


def written(sections: Sections, path: Path) -> Path:
    """The recipe as a file."""
    path.write_text(yaml.safe_dump(sections, sort_keys=False), "utf-8")
    return path


def without_folder(values: Any, folder: Path, data: Path) -> Any:
    """The same values; where files lay this time says nothing of the measurement."""
    text = json.dumps(values).replace(f"{folder}/", "").replace(f"{data}/", "")
    return json.loads(text)


if __name__ == "__main__":
    sys.exit(main())
