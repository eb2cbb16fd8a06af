"""Stopping a run from outside: SIGTERM and SIGINT finish the step, and what is done is kept.

A signal only raises a flag. What takes long asks it between two units of work: `current_stop().check()`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from seekr_lite.common.context import Ambient
from seekr_lite.common.errors import Interrupted, UserError

EXIT_CODES = {signal.SIGTERM: 3, signal.SIGINT: 130}


class StopRequest:
    """Whether somebody asked the run to stop.

    Where several processes make a run, they stop at the same place: each acts on a signal only once all know of it.

    Args:
        alone: whether one process makes the run.
    """

    def __init__(self, alone: bool = True) -> None:
        self.alone = alone
        self.received: signal.Signals | None = None  # by this process
        self.signal: signal.Signals | None = None  # what is acted on

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def receive(self, number: int) -> None:
        """A signal came to this process."""
        self.received = signal.Signals(number)
        if self.alone:
            self.signal = self.received

    def agree(self, received: Iterable[int | None]) -> None:
        """Takes what came to each process; Ctrl-C counts before SIGTERM, and what was agreed once stays."""
        numbers = {number for number in received if number is not None}
        if numbers and self.signal is None:
            self.signal = signal.SIGINT if signal.SIGINT in numbers else signal.SIGTERM

    def check(self) -> None:
        """Raises `Interrupted` where a stop was asked for."""
        if self.signal is not None:
            raise Interrupted(
                "stopped; everything so far is kept, and the same command goes on from here", EXIT_CODES[self.signal]
            )


current_stop = Ambient("stop", StopRequest())  # this one is never asked to stop


@contextmanager
def stop_signals(alone: bool = True) -> Iterator[StopRequest]:
    """Inside the block the first signal asks to stop, and a second SIGINT ends at once (`KeyboardInterrupt`).

    Outside of the main thread signals cannot be caught; there nobody asks.
    """
    request = StopRequest(alone)

    def ask(number: int, frame: FrameType | None) -> None:
        if request.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.receive(number)

    caught = EXIT_CODES if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, ask) for number in caught}
    try:
        with current_stop.set_to(request):
            yield request
    except (UserError, Interrupted):
        if not alone:  # a launcher ends the rest of a failed run by SIGTERM: it must not cut off what is said
            before = {}
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
