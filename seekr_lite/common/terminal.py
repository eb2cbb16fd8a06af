"""What goes to a terminal: text from data and models cannot move the cursor, change the title or hide other text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from io import StringIO
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but tab and line feed; marks that turn the direction of writing; halves of surrogate pairs.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PIPE_WIDTH = 200  # where there is no terminal, at least
WIDEST = 100_000  # columns of text
PICTURES = 0x2400  # ␀, ␁, ...: one for each of the first 32 characters


def printable(text: str) -> str:
    """The text with a picture of each character that a terminal would obey; its length stays."""
    return UNPRINTABLE.sub(lambda found: _picture(found[0]), text)


def safe_console(stderr: bool = False) -> Console:
    """A console of rich on which everything is `printable`; its own colours are not touched."""
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    console = SafeConsole(highlight=False, stderr=stderr)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = PIPE_WIDTH
    return console


def show(renderable: Any) -> None:
    """Prints a table or the like of rich; where there is no terminal, as wide as it is."""
    console = safe_console()
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        unbounded = console.options.update(max_width=WIDEST)
        console.width = max(console.width, console.measure(renderable, options=unbounded).maximum)
    console.print(renderable)


def as_text(renderable: Any, width: int = 160) -> str:
    """A table or the like of rich as plain text."""
    text, console = StringIO(), safe_console()
    console.file, console.width, console.no_color = text, width, True
    console.print(renderable)
    return text.getvalue().rstrip("\n")


def show_json(values: Any) -> None:
    """Prints JSON for machines; what a terminal would obey stands as an escape."""
    import typer

    typer.echo(json_text(values))


def json_text(values: Any, indent: int | None = 2) -> str:
    """JSON in which nothing is left that a terminal would obey; without `indent` on one line."""
    text = json.dumps(_finite(values), indent=indent, ensure_ascii=False, allow_nan=False)
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(values: Any) -> Any:
    """JSON has no NaN and no infinity: null in their place."""
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not isfinite(values) else values


def _picture(character: str) -> str:
    return chr(PICTURES + ord(character)) if character < " " else "�"
