"""Which rows meet in which optimizer step.

Replay is counted in rows per step, never in micro-batches, so that it does not depend on the memory of a machine.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True)
class Step:
    """One optimizer step: indices of new rows, and of rows of the replay memory."""

    new: tuple[int, ...] = ()
    replay: tuple[int, ...] = ()


def plan_epoch(
    rows: int, batch_size: int, memory: int, passes: float, own_steps: bool, generator: random.Random
) -> list[Step]:
    """One epoch: every new row once, every row of the memory about `passes` times, spread evenly.

    Replay rows join the steps of new rows, or (`own_steps`) get steps of their own of at most `batch_size` rows in
    between. They are never dropped, also where old rows outnumber new ones.
    """
    order = generator.sample(range(rows), rows)
    new = [tuple(order[first : first + batch_size]) for first in range(0, rows, batch_size)]
    visits = _visits(memory, passes, generator)
    size = max(1, min(memory, batch_size)) if own_steps else 1
    groups = [tuple(visits[first : first + size]) for first in range(0, len(visits), size)]
    beside: list[list[tuple[int, ...]]] = [[] for _ in new]  # what is replayed with each batch of new rows
    for index, group in enumerate(groups):
        beside[int((index + 0.5) * len(new) / len(groups))].append(group)
    steps: list[Step] = []
    for batch, replays in zip(new, beside, strict=True):
        if own_steps:
            steps += [Step(batch), *(Step(replay=replay) for replay in replays)]
        else:
            steps.append(Step(batch, tuple(chain(*replays))))
    return steps


def steps_per_epoch(rows: int, batch_size: int, memory: int, passes: float, own_steps: bool) -> int:
    """How many optimizer steps `plan_epoch` makes."""
    own = math.ceil(_visit_count(memory, passes) / max(1, min(memory, batch_size))) if own_steps else 0
    return math.ceil(rows / batch_size) + own


def _visit_count(memory: int, passes: float) -> int:
    return max(1, round(memory * passes)) if memory else 0


def _visits(memory: int, passes: float, generator: random.Random) -> list[int]:
    """Rows of the memory in the order of replay: shuffled once through, and again, until they are enough."""
    count = _visit_count(memory, passes)
    visits: list[int] = []
    while len(visits) < count:
        visits += generator.sample(range(memory), memory)
    return visits[:count]
