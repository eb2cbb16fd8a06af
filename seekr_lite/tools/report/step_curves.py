"""Curves from `log.jsonl`: the loss terms of every optimizer step, drawn together into means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seekr_lite.common.errors import MAX_TASKS
from seekr_lite.common.memory import REVIEW, TESTING, TRAINING
from seekr_lite.runs.log import MAX_TIME, events, within

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


PHASES = {TRAINING: "training", REVIEW: "after a task (heads, samples)", TESTING: "tests"}
MAX_BYTES = 2.0**50


@dataclass(frozen=True)
class PhaseTotal:
    """A phase over the whole run. peak_bytes: the most of any time that it ran; None where none was measured."""

    phase: str
    times: int
    seconds: float
    peak_bytes: int | None


def read_phases(path: Path) -> list[PhaseTotal]:
    """In the order of PHASES, those that the log knows; what was done again after a stop counts as it was last."""
    found: dict[str, dict[tuple[int, str], tuple[float, int | None]]] = {}
    for event in events(path):
        try:
            if event is not None and event["event"] in ("stage", "evaluation"):
                stage = int(within(event["stage"], 0, MAX_TASKS)) if event["event"] == "stage" else -1
                place = (stage, f"{event.get('after')} {event.get('task')}")
                for phase, cost in event["phases"].items():
                    peak = None if cost["peak_bytes"] is None else int(within(cost["peak_bytes"], 0, MAX_BYTES))
                    found.setdefault(phase, {})[place] = within(cost["seconds"], 0, MAX_TIME), peak
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue  # a run of an earlier version, or a damaged line, which the section on losses counts
    totals = []
    for phase in PHASES:
        if phase in found:
            seconds, peaks = zip(*found[phase].values(), strict=True)
            known = [peak for peak in peaks if peak is not None]
            totals.append(PhaseTotal(phase, len(seconds), math.fsum(seconds), max(known, default=None)))
    return totals
