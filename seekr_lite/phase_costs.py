"""What a phase of a run takes: seconds, and the most memory that it held at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TRAINING, REVIEW, TESTING = "training", "review", "testing"  # review: what a method does once a task is learned
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # proc(5), since Linux 4.0: the peak is what is held now


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
    """Measures its block. Memory is the allocator's on a GPU, and elsewhere the whole process in RAM, on Linux."""
    cost = PhaseCost(phase)
    known, started = _forget_peak(device), time.monotonic()
    yield cost
    cost.seconds += time.monotonic() - started
    cost.peak_bytes = _peak(device) if known else None


def _forget_peak(device: torch.device) -> bool:
    """Begins a new peak; returns whether that is possible here."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR.write_text(FORGET_PEAK)
    except OSError:
        return False
    return STATUS.is_file()


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
