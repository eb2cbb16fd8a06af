"""Results on stdout: tables for people, JSON for programs."""

from __future__ import annotations

from typing import Any

import typer

PIPE_WIDTH = 200  # where stdout is no terminal: wide enough that nothing of a table is cut away


def show(result: Any) -> None:
    """Prints a table or a text; in colours where stdout is a terminal and NO_COLOR is not set."""
    import os

    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = PIPE_WIDTH
    console.print(result)


def print_json(values: Any) -> None:
    import json

    typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
