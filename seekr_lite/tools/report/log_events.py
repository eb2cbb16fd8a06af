"""The lines of `log.jsonl`. No checksum guards them: what is read from one may be anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
