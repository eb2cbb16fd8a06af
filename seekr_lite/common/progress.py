"""What a run reports while it works. The learner and the run call the current listener, and know no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from seekr_lite.common.context import Ambient

Advance = Callable[[int], None]


def ignore(units: int) -> None:
    """An `Advance` that shows nothing."""


class Listener:
    """Its methods are called with what happens; these do nothing. `Console` draws it, `LogFile` writes it down."""

    @contextmanager
    def phase(self, description: str, total: int) -> Iterator[Advance]:
        """A stretch of work of `total` units; the block calls what it is given with the units done."""
        yield ignore

    def event(self, kind: str, **values: Any) -> None:
        """Something worth a line of `log.jsonl`."""

    def say(self, text: str) -> None:
        """A line for the reader."""


current_listener = Ambient("listener", Listener())


class Listeners(Listener):
    """Several listeners at once."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners

    @contextmanager
    def phase(self, description: str, total: int) -> Iterator[Advance]:
        with ExitStack() as stack:
            advances = [stack.enter_context(listener.phase(description, total)) for listener in self.listeners]

            def advance(units: int) -> None:
                for one in advances:
                    one(units)

            yield advance

    def event(self, kind: str, **values: Any) -> None:
        for listener in self.listeners:
            listener.event(kind, **values)

    def say(self, text: str) -> None:
        for listener in self.listeners:
            listener.say(text)
