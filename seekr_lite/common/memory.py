"""The most memory that was in use at once: of a GPU's allocator, and elsewhere of the whole process, on Linux."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # proc(5), since Linux 4.0: the peak is what is held now


def forget_peak(device: torch.device) -> bool:
    """Begins a new peak; returns whether that is possible here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR.write_text(FORGET_PEAK)
    except OSError:
        return False
    return STATUS.is_file()


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the most since `forget_peak`; None where it is not known."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    return int(found[1]) * 1024 if found else None


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
    """Measures its block; memory as `peak_memory` does."""
    cost = PhaseCost(phase)
    known, started = forget_peak(device), time.monotonic()
    yield cost
    cost.seconds += time.monotonic() - started
    cost.peak_bytes = peak_memory(device) if known else None


def limit_memory(gigabytes: float | None, device: torch.device) -> None:
    """Keeps this process from taking more of a GPU's memory than so many GiB; None lets it take all. Elsewhere nothing
    is limited."""
    if device.type != "cuda":
        return
    index = torch.cuda.current_device() if device.index is None else device.index  # torch wants a number here
    whole = torch.cuda.get_device_properties(index).total_memory
    fraction = 1.0 if gigabytes is None else min(1.0, gigabytes * 2**30 / whole)
    torch.cuda.set_per_process_memory_fraction(fraction, index)


def free_memory() -> None:
    """Gives back what models that nobody holds any more have taken, before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory, on a GPU or the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)  # the latter on a CPU
