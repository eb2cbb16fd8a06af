"""What a phase of a run takes: seconds, and the most memory that it held at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seekr_lite.common.memory import forget_peak, peak_memory

if TYPE_CHECKING:
    import torch

TRAINING, REVIEW, TESTING = "training", "review", "testing"  # review: what a method does once a task is learned


@dataclass
class PhaseCost:
    """Filled in once the phase has ended. peak_bytes: None where it cannot be known."""

    phase: str
    seconds: float = 0.0
    peak_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"seconds": round(self.seconds, 3), "peak_bytes": self.peak_bytes}


@contextmanager
def phase_cost(phase: str, device: torch.device) -> Iterator[PhaseCost]:
    """Measures its block; memory as `peak_memory.py` does."""
    cost = PhaseCost(phase)
    known, started = forget_peak(device), time.monotonic()
    yield cost
    cost.seconds += time.monotonic() - started
    cost.peak_bytes = peak_memory(device) if known else None
