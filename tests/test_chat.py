"""Talking to a run's models: the same answers as the run's, a change of adapter, and every way to the end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.cli.chat import answering
from seekr_lite.tools.chat import Chat

PROMPT = "keeper: wolf red cake saw desert coat ->"
WAIT = 120  # seconds; a busy machine is no error


@pytest.fixture(scope="module")
def run(finished_run: sl.Run) -> sl.Run:
    return finished_run


@pytest.fixture(scope="module")
def chat(run: sl.Run) -> Chat:
    return Chat(run.folder)


def command(run: sl.Run, lines: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["chat", str(run.path), *arguments], input=lines)


def test_answers_are_those_of_the_loaded_model(run: sl.Run, chat: Chat) -> None:
    pieces: list[str] = []
    answer = chat.answer(PROMPT, pieces.append)
    assert answer == "".join(pieces) == run.load_model().generate(PROMPT)


def test_the_adapter_changes_and_the_base_stays(run: sl.Run, chat: Chat) -> None:
    before = chat._models.adapters
    answers = {}
    for after in ("shade", "base", "keeper"):
        chat.switch(after)
        answers[after] = chat.answer(PROMPT)
    assert chat._models.adapters is before
    assert answers["shade"] == run.load_model(after="shade").generate(PROMPT)
    assert chat.model == "keeper"


def test_an_unknown_task_leaves_the_model_as_it_was(chat: Chat) -> None:
    with pytest.raises(sl.UserError, match='did you mean "shade"'):
        chat.switch("shad")
    assert chat.model == "keeper"


def test_lines_that_are_piped_in_are_prompts_and_only_answers_are_printed(run: sl.Run, chat: Chat) -> None:
    done = command(run, f"{PROMPT}\n\n/after shade\n{PROMPT}\n")
    assert done.exit_code == 0, done.output
    last, first = run.load_model().generate(PROMPT), run.load_model(after="shade").generate(PROMPT)
    assert done.stdout == f"{last}\n{first}\n"
    assert "answering: shade" in done.stderr


def test_commands_are_done_and_mistakes_do_not_end_the_chat(run: sl.Run) -> None:
    done = command(run, f"/afer shade\n/after\n/after shad\n/tasks\n/help\n{PROMPT}\n/quit\n{PROMPT}\n")
    assert done.exit_code == 0, done.output
    for words in ('did you mean "/after"', "/after: name one of", 'did you mean "shade"', "answering: keeper", "/quit"):
        assert words in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_answers_as_json_lines(run: sl.Run) -> None:
    done = command(run, f"{PROMPT}\n", "--json", "--after", "shade", "--max-tokens", "1")
    (line,) = done.stdout.splitlines()
    assert json.loads(line).keys() == {"prompt", "answer", "after"}
    assert json.loads(line)["after"] == "shade"


def test_a_wrong_task_is_told_before_anything_is_loaded(run: sl.Run) -> None:
    done = command(run, "", "--after", "kepeer")
    assert isinstance(done.exception, sl.UserError)
    assert 'did you mean "keeper"' in str(done.exception)


def test_ctrl_c_stops_the_answer_in_a_terminal_and_the_chat_elsewhere(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(Chat):
        def __init__(self) -> None:
            self.__dict__.update(vars(chat))

        def answer(self, prompt: str, write: Callable[[str], None] | None = None) -> str:
            super().answer(prompt, write)
            raise KeyboardInterrupt

    answering(Interrupted(), as_json=False, talking=True)(PROMPT)
    assert capsys.readouterr().out.endswith("\n")
    with pytest.raises(KeyboardInterrupt):
        answering(Interrupted(), as_json=False, talking=False)(PROMPT)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_ctrl_c_ends_a_chat_in_a_terminal_cleanly(run: sl.Run) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "seekr_lite", "chat", str(run.path)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=_own_terminal(theirs),
    )
    os.close(theirs)
    seen = _read_until(ours, b"> ")
    os.write(ours, PROMPT.encode() + b"\n")
    seen += _read_until(ours, b"> ")
    for _ in range(WAIT // 15):  # one that comes while the answer is still being written stops that alone
        os.write(ours, b"\x03")
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)  # a second one, while it ends, would kill it
            break
    assert process.returncode == 130, seen
    seen += _read_until(ours, None)
    assert b"answering: keeper" in seen
    assert b"Traceback" not in seen
    os.close(ours)


def _own_terminal(terminal: int) -> Callable[[], None]:
    def take() -> None:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    return take


def _read_until(terminal: int, mark: bytes | None) -> bytes:
    """What the terminal shows, up to `mark`, or to its end."""
    seen, end = b"", time.monotonic() + WAIT
    while (mark is None or mark not in seen) and time.monotonic() < end:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            more = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not more:
            break
        seen += more
    return seen


def test_an_end_of_input_without_a_line_is_no_error(run: sl.Run, tmp_path: Path) -> None:
    done = command(run, "")
    assert (done.exit_code, done.stdout) == (0, "")
