"""docs/results.md: a page of sections, each written by the benchmark that its text names."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from pathlib import Path

import torch
import transformers

from lorakit.run_folder import commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results.md"
TITLE = "# Results\n"

# Options that say where files lie, which says nothing of what was measured.
PLACES = ("--keep", "--workdir")


def write_section(heading: str, text: str, path: Path = RESULTS) -> None:
    """Put `text` under `## heading`, in place of what stood there; other sections stay."""
    page = path.read_text("utf-8") if path.is_file() else TITLE
    opening, *sections = re.split(r"(?m)^(?=## )", page)
    made = f"## {heading}\n\n{text.strip()}\n"
    others = [one for one in sections if one.partition("\n")[0] != f"## {heading}"]
    place = next((i for i, one in enumerate(sections) if one not in others), len(others))
    others.insert(place, made)
    path.write_text("\n\n".join(one.strip() for one in [opening, *others]) + "\n", "utf-8")


def command() -> str:
    """What was run, with the options that were given but places of one machine: it writes the same
    section again. A file that is read is named as seen from the checkout."""
    kept: list[str] = []
    words = iter(sys.argv[1:])
    for word in words:
        if word in PLACES:
            next(words, None)
        elif word.partition("=")[0] not in PLACES:
            kept.append(os.path.relpath(word, ROOT) if Path(word).is_absolute() else word)
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *kept])


def machine() -> str:
    """What a figure was measured on, in one sentence."""
    return (
        f"Machine: {processor()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, commit {short_commit()}."
    )


def short_commit() -> str:
    """Twelve digits, and `+` where the checkout has local changes."""
    full = commit() or "unknown"
    return full[:12] + ("+" if full.endswith("+") else "")


def processor() -> str:
    """The name of the processor, where the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return found[1] if found else platform.machine()
