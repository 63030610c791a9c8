"""A folder in the shape of the public data, with a few made-up rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public data in miniature: 60 topics, of which 5 are fine-tuned on and 5 are tested on."""
    folder = tmp_path_factory.mktemp("shared")
    rows = [medquad_row(number) for number in range(60)]
    write(folder / "medquad" / "medquad_train.jsonl", rows[5:] + rows[:3])
    write(folder / "medquad" / "small_train_2000.jsonl", rows[5:10])
    write(folder / "medquad" / "small_test_300.jsonl", rows[:5])
    gsm8k = [
        {
            "question": f"Tom has {n} pens and buys 2. How many?",
            "answer": f"{n} + 2 = <<{n}+2={n + 2}>>{n + 2}\n#### {n + 2}",
            "final": str(n + 2),
        }
        for n in range(40)
    ]
    write(folder / "instruct" / "gsm8k_train.jsonl", gsm8k[5:])
    write(folder / "instruct" / "gsm8k_test.jsonl", gsm8k[:5])
    pubmed = [
        {
            "pmid": str(n),
            "question": f"Does drug {n} help?",
            "context": f"We gave drug {n} to ten people. Nine were well.",
            "long_answer": f"Drug {n} seems to help.",
            "answer": "yes",
        }
        for n in range(40)
    ]
    write(folder / "instruct" / "pubmedqa_train.jsonl", pubmed)
    tasks = [
        {
            "id": f"task_{n}",
            "instruction": f"Say {n}.",
            "instances": [{"input": "", "output": f"{n}"}],
        }
        for n in range(40)
    ]
    write(folder / "instruct" / "self_instruct_seed_tasks.jsonl", tasks)
    talks = [
        {
            "messages": [
                {"role": "user", "content": f"Hi {n}"},
                {"role": "assistant", "content": f"Hello {n}"},
            ]
        }
        for n in range(40)
    ]
    write(folder / "instruct" / "tinker_conversations.jsonl", talks)
    (folder / "tiny_shakespeare.txt").write_text("ROMEO:\nO, speak again.\n\n" * 2000)
    return folder


def medquad_row(number: int) -> dict[str, str]:
    """One row about its own topic, whose answer has three sentences."""
    return {
        "id": f"{number:07}-1",
        "question": f"What is (are) Disease {number} ?",
        "answer": f"Disease number {number} is a rare illness of the skin and the eyes. "
        f"Its cause in family {number} is not known at this time. "
        f"Doctors treat it with rest and with ointment {number}.",
        "focus": f"Disease {number}",
    }


def write(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> None:
    """JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
