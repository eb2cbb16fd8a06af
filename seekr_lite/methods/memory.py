"""How the replay memory is filled. How it is replayed is in `schedule.py`."""

from __future__ import annotations

import random
from dataclasses import dataclass

from seekr_lite.data.encoding import EncodedExample


@dataclass(frozen=True)
class ReplayRow:
    """A row of an old task, ready for the model: which task it is of, and which sample of that task's memory."""

    task: int
    sample: int
    encoded: EncodedExample


def choose_samples(rows: int, fraction: float, choice: str, generator: random.Random) -> list[int]:
    """Indices of the rows that are kept of a task: at least one. `choice`: random, or first (official code)."""
    count = min(rows, max(1, round(rows * fraction)))
    return list(range(count)) if choice == "first" else sorted(generator.sample(range(rows), count))
