"""What goes to a terminal: text from data and models cannot move the cursor, change the title or hide other text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but tab and line feed; marks that turn the direction of writing; halves of surrogate pairs.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
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

    return SafeConsole(highlight=False, stderr=stderr)


def show(renderable: Any) -> None:
    """Prints a table or the like of rich."""
    safe_console().print(renderable)


def show_json(values: Any) -> None:
    """Prints JSON for machines; what a terminal would obey stands as an escape."""
    import typer

    text = json.dumps(values, indent=2, ensure_ascii=False)
    typer.echo(UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _picture(character: str) -> str:
    return chr(PICTURES + ord(character)) if character < " " else "�"
