"""How the replay memory is filled. How it is replayed is in `training/replay_schedule.py`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from seekr_lite.data.encoding import EncodedExample


@dataclass(frozen=True)
class ReplayRow:
    """A row of an old task, ready for the model: which task it is of, and which sample of that task's memory."""

    task: int
    sample: int
    encoded: EncodedExample


def kept_rows(rows: int, fraction: float) -> int:
    """How many of a task's rows are kept: at least one."""
    return min(rows, max(1, round(rows * fraction)))


def choose_samples(answers: Sequence[str], fraction: float, choice: str, generator: random.Random) -> list[int]:
    """Indices of the rows that are kept of a task, given the answers of all its rows.

    choice: `random`; `stratified`, random but spread over the answers, so that of two classes not one is kept twice and
    the other forgotten; or `first`, as the official code of SEEKR.
    """
    rows, count = range(len(answers)), kept_rows(len(answers), fraction)
    if choice == "first":
        return list(rows[:count])
    return sorted(generator.sample(rows, count) if choice == "random" else _stratified(answers, count, generator))


def _stratified(answers: Sequence[str], count: int, generator: random.Random) -> list[int]:
    """A row of every answer and the rest at random, where there are no more answers than rows to keep; else a
    systematic sample of the rows in order of their answers: every answer has its share of it, up to one row, and every
    row is as likely to be kept (Cochran 1977, Sampling Techniques, chapters 5 and 8)."""
    by_answer: dict[str, list[int]] = {}
    for row in generator.sample(range(len(answers)), len(answers)):
        by_answer.setdefault(answers[row], []).append(row)
    if len(by_answer) <= count:
        others = [row for rows in by_answer.values() for row in rows[1:]]
        return [rows[0] for rows in by_answer.values()] + generator.sample(others, count - len(by_answer))
    in_order = [row for rows in by_answer.values() for row in rows]
    start = generator.randrange(len(answers))
    return [in_order[(start + turn * len(answers)) // count] for turn in range(count)]
