"""Stopping a run from outside: SIGTERM and SIGINT finish the step, and what is done is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from seekr_lite.common.errors import Interrupted, UserError
from seekr_lite.common.progress import Advance, Listener

EXIT_CODES = {signal.SIGTERM: 3, signal.SIGINT: 130}


class StopRequest(Listener):
    """Whether somebody asked the run to stop. As a listener it stops phases between two units of work.

    Where several processes make a run, they stop at the same place: each acts on a signal only once all know of it.
    """

    def __init__(self) -> None:
        self.alone = True  # whether one process makes the run
        self.heard: signal.Signals | None = None  # what came to this process
        self.signal: signal.Signals | None = None  # what is acted on

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def hear(self, number: int) -> None:
        """A signal came to this process."""
        self.heard = signal.Signals(number)
        if self.alone:
            self.signal = self.heard

    def agree(self, heard: Iterable[int | None]) -> None:
        """Takes what each process has heard; Ctrl-C counts before SIGTERM, and what was agreed once stays."""
        numbers = {number for number in heard if number is not None}
        if numbers and self.signal is None:
            self.signal = signal.SIGINT if signal.SIGINT in numbers else signal.SIGTERM

    def check(self) -> None:
        """Raises `Interrupted` where a stop was asked for."""
        if self.signal is not None:
            raise Interrupted(
                "stopped; everything so far is kept, and the same command goes on from here", EXIT_CODES[self.signal]
            )

    @contextmanager
    def phase(self, description: str, total: int) -> Iterator[Advance]:
        yield lambda units: self.check()


@contextmanager
def stop_signals(request: StopRequest) -> Iterator[None]:
    """Inside the block the first signal asks to stop, and a second SIGINT ends at once (`KeyboardInterrupt`).

    Outside of the main thread signals cannot be caught; there nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request.heard is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.hear(number)

    before = {number: signal.signal(number, ask) for number in EXIT_CODES}
    try:
        yield
    except (UserError, Interrupted):
        if not request.alone:  # a launcher ends the rest of a failed run by SIGTERM: it must not cut off what is said
            before = {}
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
