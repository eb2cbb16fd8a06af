"""The most memory that was in use at once: of a GPU's allocator, and elsewhere of the whole process, on Linux."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # proc(5), since Linux 4.0: the peak is what is held now


def forget_peak(device: torch.device) -> bool:
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


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the most since `forget_peak`; None where it is not known."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    return _of_process("VmHWM")


def memory_in_use(device: torch.device) -> int | None:
    """Bytes now; None where it is not known."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.memory_allocated(device))
    return _of_process("VmRSS")


def _of_process(what: str) -> int | None:
    found = re.search(rf"{what}:\s+(\d+) kB", STATUS.read_text())
    return int(found[1]) * 1024 if found else None
