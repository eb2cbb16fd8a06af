"""Time and memory by phase, from `log.jsonl`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekr_lite.limits import MAX_TASKS
from seekr_lite.phase_costs import REVIEW, TESTING, TRAINING
from seekr_lite.tools.report.log_events import MAX_TIME, events, within

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
    found: dict[tuple[str, int, str], tuple[float, int | None]] = {}
    for event in events(path):
        try:
            if event is not None and event["event"] in ("stage", "evaluation"):
                place = (
                    int(within(event["stage"], 0, MAX_TASKS)) if event["event"] == "stage" else -1,
                    f"{event.get('after')} {event.get('task')}",
                )
                for phase, cost in event["phases"].items():
                    found[(phase, *place)] = _cost(cost)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue  # a run of an earlier version, or a damaged line, which the section on losses counts
    totals = []
    for phase in PHASES:
        costs = [cost for (name, *_), cost in found.items() if name == phase]
        peaks = [peak for _, peak in costs if peak is not None]
        if costs:
            seconds = math.fsum(seconds for seconds, _ in costs)
            totals.append(PhaseTotal(phase, len(costs), seconds, max(peaks, default=None)))
    return totals


def _cost(values: dict[str, Any]) -> tuple[float, int | None]:
    peak = values["peak_bytes"]
    return within(values["seconds"], 0, MAX_TIME), None if peak is None else int(within(peak, 0, MAX_BYTES))
