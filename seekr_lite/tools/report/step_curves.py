"""Curves from `log.jsonl`: the loss terms of every optimizer step, drawn together into means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seekr_lite.limits import MAX_TASKS
from seekr_lite.tools.report.log_events import MAX_TIME, events, within

POINTS = 160  # of a curve, at most (and one more per task)
MAX_STEPS, LARGEST = 1e9, 1e200
NOT_A_TERM = {"event", "time", "stage", "step", "epoch", "learning_rate", "gradient_norm", "term_gradient_norms"}
GRADIENT_NORM = "gradient_norm"


@dataclass(frozen=True)
class Mean:
    """The mean of a few consecutive steps of one stage: the middle of them, counted over the run; extremes too."""

    at: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StepCurves:
    """steps: (stage, step) -> name -> value; a step that was taken again after a stop counts once, as it was last.

    shrunk: how often memory ran out and micro-batches became smaller. bad: steps that were left out, as their loss or
    gradient was not finite. unreadable: damaged lines of the log.
    """

    steps: dict[tuple[int, int], dict[str, float]]
    times: tuple[float, float] | None
    shrunk: int
    bad: int
    unreadable: int

    @property
    def names(self) -> list[str]:
        """Loss terms in the order of their first step, then the norm of the gradient."""
        found = {name: None for values in self.steps.values() for name in values}
        return sorted(found, key=lambda name: name == GRADIENT_NORM)

    @cached_property
    def lengths(self) -> dict[int, int]:
        """stage -> its steps so far, in the order of stages."""
        lengths: dict[int, int] = {}
        for stage, step in sorted(self.steps):
            lengths[stage] = step
        return lengths

    @property
    def total(self) -> int:
        return sum(self.lengths.values())

    @cached_property
    def starts(self) -> dict[int, int]:
        """stage -> how many steps came before it."""
        lengths = self.lengths
        return {stage: sum(lengths[other] for other in lengths if other < stage) for stage in lengths}

    @cached_property
    def window(self) -> int:
        """How many steps one point is the mean of."""
        return max(1, math.ceil(self.total / POINTS))

    def smoothed(self, name: str) -> list[Mean | None]:
        """One mean for each window of steps that logged this value; None between two stages."""
        points: list[Mean | None] = []
        before: int | None = None
        windows: dict[tuple[int, int], list[float]] = {}
        for stage, step in sorted(self.steps):
            if (value := self.steps[(stage, step)].get(name)) is not None:
                windows.setdefault((stage, (step - 1) // self.window), []).append(value)
        for (stage, index), values in windows.items():
            if stage != before:
                points.append(None)
            before = stage
            first = 1 + index * self.window
            last = min(first + self.window - 1, self.lengths[stage])
            middle = self.starts[stage] + (first + last) / 2
            points.append(Mean(middle, math.fsum(values) / len(values), min(values), max(values)))
        return points


def read_curves(path: Path) -> StepCurves:
    """Reads a log as far as it is whole; there may be none."""
    steps: dict[tuple[int, int], dict[str, float]] = {}
    shrunk = unreadable = 0
    bad: set[tuple[int, int]] = set()
    times: list[float] = []
    for event in events(path):
        try:
            if event is None:
                raise ValueError
            if event["event"] == "step":
                steps[_place(event)] = _values(event)
            if event["event"] == "bad_step":
                bad.add(_place(event))
            shrunk += event["event"] == "out_of_memory"
            times.append(within(event["time"], 0, MAX_TIME))
        except (ValueError, KeyError, TypeError, OverflowError):
            unreadable += 1
    return StepCurves(steps, (min(times), max(times)) if times else None, shrunk, len(bad), unreadable)


def _place(event: dict[str, Any]) -> tuple[int, int]:
    return int(within(event["stage"], 0, MAX_TASKS)), int(within(event["step"], 1, MAX_STEPS))


def _values(event: dict[str, Any]) -> dict[str, float]:
    names = [*(name for name in event if name not in NOT_A_TERM), GRADIENT_NORM]
    values = {name: float(event[name]) for name in names if isinstance(event.get(name), int | float)}
    return {name: value for name, value in values.items() if abs(value) < LARGEST}
