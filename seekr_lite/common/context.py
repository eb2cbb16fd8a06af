"""Values that hold for everything that is called inside a block, so that no signature has to hand them on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Ambient(Generic[Value]):
    """A current value; calling it gives the value. Each thread has its own, so runs in several threads do not mix."""

    def __init__(self, name: str, default: Value) -> None:
        self._variable: ContextVar[Value] = ContextVar(name, default=default)

    def __call__(self) -> Value:
        return self._variable.get()

    @contextmanager
    def set_to(self, value: Value | None) -> Iterator[None]:
        """Inside the block it is `value`; None leaves it as it is."""
        token = self._variable.set(self() if value is None else value)
        try:
            yield
        finally:
            self._variable.reset(token)
