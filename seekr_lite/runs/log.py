"""`log.jsonl`: what happened in a run, a line for each event; it only grows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seekr_lite.common.files import append_text, writing
from seekr_lite.common.progress import Listener


class LogFile(Listener):
    """Appends events to `log.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def event(self, kind: str, **values: Any) -> None:
        line = json.dumps({"event": kind, "time": round(time.time(), 3), **values}, ensure_ascii=False)
        append_text(self.path, line + "\n")


def cut_to_whole_lines(path: Path) -> None:
    """Takes away the line that a stop has cut, if there is one. Raises `Stopped` where it cannot be written."""
    if not path.is_file():
        return
    with writing(path), path.open("rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


MAX_TIME = 2e11  # seconds


def events(path: Path) -> Iterator[dict[str, Any] | None]:
    """Each event; None for a line that is damaged. There may be no log."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):
                    yield None


def within(value: Any, low: float, high: float) -> float:
    """A number of a log. Raises `ValueError` or `TypeError` where it is none of this range."""
    if not low <= float(value) <= high:
        raise ValueError
    return float(value)
