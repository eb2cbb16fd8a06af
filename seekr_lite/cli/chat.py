"""`seekr-lite chat`: talk to the models of a run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated

import typer

from seekr_lite.cli.options import Quiet, RunPath, listener
from seekr_lite.common.terminal import json_text, printable

if TYPE_CHECKING:
    from seekr_lite.tools.chat import Chat


def chat_command(
    run: RunPath,
    after: Annotated[
        str | None, typer.Option(help="The model after this task, by default the last; base: the bare base.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="The longest answer; by default data.max_answer_tokens of the run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as a line of JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Talk to the model after a task; answers are printed as they are written. Every prompt stands for itself.

    /after TASK changes the adapter, /tasks and /help tell more, /quit ends. Where the input is no terminal, each of its
    lines is a prompt.
    """
    from seekr_lite.api import open_run
    from seekr_lite.tools.chat import Chat, converse

    chat = Chat(open_run(run).folder, after, max_tokens)
    talking = sys.stdin.isatty() and sys.stdout.isatty()
    if not talking and isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    if talking:
        listener(quiet).say(f"answering: {chat.model}; /help shows the commands")
    try:
        converse(chat, _typed() if talking else sys.stdin, answering(chat, as_json, talking), _say)
    except KeyboardInterrupt:
        typer.echo("", err=True)
        raise typer.Exit(130) from None


def answering(chat: Chat, as_json: bool, talking: bool) -> Callable[[str], None]:
    """What prints the answer to a prompt. In a terminal Ctrl-C stops the answer, not the chat."""

    def print_answer(prompt: str) -> None:
        try:
            answer = chat.answer(prompt, None if as_json else _print)
        except KeyboardInterrupt:
            if not talking:
                raise
            answer = ""
        if as_json:
            typer.echo(json_text({"prompt": prompt, "answer": answer, "after": chat.model}, indent=None))
        else:
            typer.echo("")

    return print_answer


def _typed() -> Iterator[str]:
    """What is typed, line by line, up to Ctrl-D; with a history where Python has one."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() takes it up
    while True:
        try:
            yield input("> ")
        except EOFError:
            typer.echo("")
            return


def _print(text: str) -> None:
    typer.echo(printable(text), nl=False)


def _say(text: str) -> None:
    typer.echo(printable(text), err=True)
