"""What documents tell people to type: their fenced blocks, the command lines in them, and what a command line means."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from seekr_lite.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HERE_DOCUMENT = re.compile(r"<<'(\w+)'")
OPERATORS = {"&&", "||", "|", ";"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, from top to bottom."""
    return [Block(page, *found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def shell_lines(text: str) -> list[str]:
    """The commands of a `bash` block, one each: comments are gone, what goes on in the next line is joined, and a text
    after `<<'END'` belongs to its command."""
    found, lines = [], iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        command = re.sub(r"(^|\s+)#.*$", "", line).strip()
        if here := HERE_DOCUMENT.search(command):
            rest = [command]
            while rest[-1] != here[1]:
                rest.append(next(lines))
            command = "\n".join(rest) + "\n"
        if command:
            found.append(command)
    return found


def programs(line: str) -> Iterator[list[str]]:
    """The words of each program that a command line calls: `a && b | c` calls three."""
    lexer = shlex.shlex(line.partition("\n")[0], posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word in OPERATORS:
            yield words
            words = []
        elif words or not re.match(r"\w+=", word):  # a variable that is set for this program alone
            words.append(word)
    yield words


def parse(arguments: list[str]) -> tuple[tuple[str, ...], Any]:
    """What typer makes of the arguments of `seekr-lite`: the names that lead to the command, and its context.

    Raises:
        click.UsageError: there is no such command, option or value.
    """
    names: list[str] = []
    context, command = None, typer.main.get_command(app)
    while hasattr(command, "commands"):
        context = command.make_context("seekr-lite", arguments, parent=context)
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        names.append(name)
    return tuple(names), command.make_context(names[-1], arguments, parent=context)
