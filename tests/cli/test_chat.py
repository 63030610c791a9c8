"""`lorakit chat` in a pipe, in a terminal, and its commands."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lorakit.cli import main
from lorakit.cli.chat import open_dialogues, terminal
from lorakit.cli.chat.commands import COMMANDS, LeaveError, question_of, run_command
from lorakit.cli.chat.dialogue import Answer, Dialogue
from lorakit.cli.chat.lines import talk_in_lines
from lorakit.cli.chat.terminal import TerminalChat, show_side_by_side
from lorakit.cli.chat.text_stream import TextStream
from lorakit.cli.output import visible
from lorakit.data.conversation import Conversation
from lorakit.data.reading import DataRules, read_meanings
from lorakit.errors import InputError
from lorakit.generate import SamplingSettings
from lorakit.ship.serving import ServedRun

GREEDY = SamplingSettings(max_new_tokens=8, temperature=0.0)


def chat(run: Path, lines: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return main(["chat", str(run), "--max-new-tokens", "8", *options])


def test_in_a_pipe_every_line_is_answered_and_nothing_else_is_on_stdout(
    tiny_run: Path,
    served: ServedRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert chat(tiny_run, "What helps?\n\nAnd then?\n", monkeypatch, "--greedy") == 0
    shown = capsys.readouterr()
    (dialogue,) = open_dialogues(served, GREEDY, base=False)
    answers = [dialogue.ask(question).text for question in ("What helps?", "And then?")]
    assert shown.out == "".join(f"{answer}\n" for answer in answers)
    assert "cut after 8 tokens" in shown.err


def test_two_models_in_a_pipe_are_told_apart(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(tiny_run, "What helps?\n", monkeypatch, "--greedy", "--base") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("base: ") and "\ntuned: " in shown


def test_commands_work_in_a_pipe(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = f"What helps?\n/undo\nWhat helps?\n/save {tmp_path / 'talk.jsonl'}\n/exit\nMore?\n"
    assert chat(tiny_run, lines, monkeypatch, "--greedy", "--system", "") == 0
    first, second, rest = capsys.readouterr().out.split("\n")
    assert first == second and rest == ""
    saved = json.loads((tmp_path / "talk.jsonl").read_text())
    assert saved == {
        "messages": [
            {"role": "user", "content": "What helps?"},
            {"role": "assistant", "content": second},
        ]
    }


def test_a_line_of_a_pipe_is_a_conversation_of_its_own(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []
    ask = Dialogue.ask

    def noting(dialogue: Dialogue, *arguments: Any) -> Any:
        asked.append(len(dialogue.turns))
        return ask(dialogue, *arguments)

    monkeypatch.setattr(Dialogue, "ask", noting)
    for options, turns in (([], [0, 0, 0]), (["--history"], [0, 1, 2])):
        asked.clear()
        assert chat(tiny_run, "What helps?\n" * 3, monkeypatch, "--greedy", *options) == 0
        assert asked == turns
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ("/rest\n", [], "did you mean /reset?"),
        ("rest " * 300 + "\n", [], "no room for an answer"),
        ("Hi\n", ["--greedy", "--temperature", "1"], "exclude each other"),
        ("Hi\n", ["--greedy", "--seed", "1"], "takes no effect"),
        ("Hi\n", ["--temperature", "nan"], "temperature"),
        ("/save\n", [], "needs a file"),
        ("/save talk.jsonl\n", [], "nothing has been said"),
    ],
)
def test_bad_input_exits_2(
    lines: str,
    options: list[str],
    message: str,
    tiny_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert chat(tiny_run, lines, monkeypatch, *options) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.out == ""


def test_a_folder_that_is_no_run_exits_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(tmp_path, "Hi\n", monkeypatch) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_ctrl_c_in_a_pipe_ends_it(served: ServedRun) -> None:
    class Impatient(io.StringIO):
        def write(self, text: str) -> int:
            if text.strip():
                raise KeyboardInterrupt
            return super().write(text)

    with pytest.raises(KeyboardInterrupt):
        talk_in_lines(open_dialogues(served, GREEDY, base=False), ["What helps?"], Impatient())


def test_a_slash_is_a_command_and_two_are_a_question() -> None:
    assert question_of("What is a/b?") == "What is a/b?"
    assert question_of("/help") is None
    assert question_of("//etc is what?") == "/etc is what?"


def test_every_command_is_in_help(served: ServedRun) -> None:
    shown = run_command("/help", open_dialogues(served, GREEDY, base=False))
    for name, command in COMMANDS.items():
        assert command.usage.startswith(f"/{name}") and command.usage in shown


def test_commands_act_on_both_models(served: ServedRun, tmp_path: Path) -> None:
    dialogues = open_dialogues(served, GREEDY, base=True)
    assert run_command("/undo", dialogues) == "nothing to take back"
    for dialogue in dialogues:
        dialogue.ask("What helps?")
    assert run_command("/system", dialogues) == "system message: Be brief."
    path = tmp_path / "talk.jsonl"
    assert "with the tuned answers" in run_command(f"/save {path}", dialogues)
    (meaning,) = read_meanings(str(path), DataRules())
    assert isinstance(meaning.conversation, Conversation)
    assert list(meaning.conversation.messages) == dialogues[1].messages()
    with pytest.raises(InputError, match="not overwritten"):
        run_command(f"/save {path}", dialogues)
    assert run_command("/undo", dialogues) == "taken back: What helps?"
    assert [dialogue.turns for dialogue in dialogues] == [[], []]
    assert "anew" in run_command("/system Be kind.", dialogues)
    assert [dialogue.system for dialogue in dialogues] == ["Be kind."] * 2
    run_command("/system -", dialogues)
    assert run_command("/system", dialogues) == "system message: none"
    dialogues[0].ask("What helps?")
    run_command("/reset", dialogues)
    assert dialogues[0].turns == []
    with pytest.raises(LeaveError):
        run_command("/exit", dialogues)


def test_what_a_model_writes_cannot_steer_the_terminal() -> None:
    assert visible("a\x1b[2J\rb\x07\x9b\n\tc") == "a\u241b[2J\u240db\u2407\ufffd\n\tc"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_answers_to_piped_questions_cannot_steer_the_terminal_either(
    served: ServedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {True: Terminal(), False: io.StringIO()}
    monkeypatch.setattr(Dialogue, "ask", answer_with("a\x1b[2Jb"))
    for out in shown.values():
        talk_in_lines(open_dialogues(served, GREEDY, base=False), ["What helps?"], out)
    assert shown[True].getvalue() == "a\u241b[2Jb\n"
    assert shown[False].getvalue() == "a\x1b[2Jb\n"  # a file holds what was said


def test_questions_in_another_encoding_exit_2(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9?\n"), "utf-8"))
    assert main(["chat", str(tiny_run)]) == 2
    assert "no utf-8 text" in capsys.readouterr().err


def test_undo_takes_the_same_question_back_from_both(
    served: ServedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogues = open_dialogues(served, GREEDY, base=True)
    for dialogue in dialogues:
        dialogue.ask("What helps?")
    with monkeypatch.context() as patch:  # the tuned model ends its answer at once
        dialogues[0].ask("And then?")
        patch.setattr(TextStream, "add", lambda stream, token: "")
        patch.setattr(TextStream, "rest", lambda stream, whole: "")
        assert not dialogues[1].ask("And then?").text
    assert "And then?" not in str(dialogues[1].messages())
    assert run_command("/undo", dialogues) == "taken back: And then?"
    assert [[turn.question for turn in one.turns] for one in dialogues] == [["What helps?"]] * 2


def answer_with(text: str) -> Callable[..., Answer]:
    def ask(_: Dialogue, question: str, on_text: Callable[[str], None]) -> Answer:
        on_text(text)
        return Answer(text, 1, 1.0, is_cut=False, is_stopped=False, num_forgotten=0)

    return ask


def typed(lines: list[str | type[BaseException]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a person type these lines, and Ctrl-C or Ctrl-D (the exceptions)."""
    waiting = iter([*lines, EOFError])

    def read(prompt: str) -> str:
        line = next(waiting)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(terminal, "_edit_lines", lambda: None)


@pytest.mark.parametrize(("width", "beside"), [(120, True), (80, False)])
def test_two_models_stand_side_by_side_where_there_is_room(
    width: int,
    beside: bool,
    served: ServedRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        terminal,
        "console",
        lambda: Console(
            width=width, force_terminal=True, highlight=False, markup=False, no_color=True
        ),
    )
    typed(["What helps?", KeyboardInterrupt, "/bye", "/help"], monkeypatch)
    TerminalChat(open_dialogues(served, GREEDY, base=True), title="run [x]").run()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    heads = [line.split() for line in shown.splitlines()]
    assert (["base", "tuned"] in heads) is beside
    assert (["base"] in heads) is not beside
    assert "run [x]" in shown and "/bye is no command" in shown and "/save FILE" in shown
    assert "(Ctrl-D or /exit leaves)" in shown and "8 tokens, " in shown


def test_a_backslash_goes_on_in_the_next_line(
    served: ServedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogues = open_dialogues(served, GREEDY, base=False)
    typed(["What\\", "helps?", "rest " * 300], monkeypatch)
    TerminalChat(dialogues, title="run").run()
    assert [turn.question for turn in dialogues[0].turns] == ["What\nhelps?"]


def test_answers_side_by_side_outside_a_terminal_are_one_below_the_other() -> None:
    out = Console(file=io.StringIO(), width=120)
    show_side_by_side(out, {"base": "one", "tuned": "two\x1b"})
    assert out.file.getvalue() == "base\none\ntuned\ntwo\u241b\n"  # type: ignore[attr-defined]


# `lorakit`, whose models take their time, so that a signal surely comes in the middle of an answer.
SLOW_LORAKIT = """
import sys, time
from lorakit.cli import main
from lorakit.cli.chat.text_stream import TextStream
add = TextStream.add
def slowly(stream, token):
    time.sleep(0.05)
    return add(stream, token)
TextStream.add = slowly
sys.exit(main(sys.argv[1:]))
"""


class Person:
    """A process in a terminal of its own, and what it has shown."""

    def __init__(self, arguments: list[str]) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SLOW_LORAKIT, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""

    def wait_for(self, pattern: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            assert time.monotonic() < deadline, self.shown
            if select.select([self.master], [], [], 0.2)[0]:
                self.shown += os.read(self.master, 65536).decode()

    def say(self, text: str) -> None:
        self.shown = ""
        os.write(self.master, text.encode())


def test_in_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_leaves(tiny_run: Path) -> None:
    person = Person(["chat", str(tiny_run), "--greedy", "--max-new-tokens", "230"])
    try:
        person.wait_for("you> ")
        person.say("What helps?\n")
        person.wait_for(r"What helps\?.*\n.")  # the first of the answer
        person.process.send_signal(signal.SIGINT)
        person.wait_for(r"\(stopped; [0-9]+ tokens")
        person.wait_for("you> ")
        person.say("\x04")
        assert person.process.wait(60) == 0
    finally:
        person.process.kill()
        person.process.wait()
        os.close(person.master)
