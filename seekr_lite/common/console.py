"""Progress in a terminal or a notebook: a bar with time left for what takes long, one line when a task ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from seekr_lite.common.progress import Advance, Listener
from seekr_lite.common.terminal import safe_console


class Console(Listener):
    """Draws on stderr. Where that is no terminal, only the lines are printed.

    Args:
        quiet: print nothing.
        verbose: print every event that the log gets, too.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.console = safe_console(stderr=True)

    @contextmanager
    def phase(self, description: str, total: int) -> Iterator[Advance]:
        if self.quiet or not (self.console.is_terminal or self.console.is_jupyter):
            yield lambda units: None
            return
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=self.console, transient=True) as bars:
            bar = bars.add_task(description, total=total)
            yield lambda units: bars.advance(bar, units)

    def event(self, kind: str, **values: Any) -> None:
        if self.verbose:
            self.say(" ".join([kind, *(f"{name}={_short(value)}" for name, value in values.items())]))

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)  # a log is not cut to 80 columns


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_short(item)}" for name, item in value.items()) + "}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
