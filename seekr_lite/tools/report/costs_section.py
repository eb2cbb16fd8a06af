"""The costs in a report: time of learning by task, time and memory by phase, bytes on disk."""

from __future__ import annotations

from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.common.html_page import size_of
from seekr_lite.tools.report.run_facts import RunFacts
from seekr_lite.tools.report.step_curves import PHASES

Cells = tuple[str, ...]


def cost_tables(facts: RunFacts) -> dict[str, Any]:
    """learning, phases, kept: rows of cells. trouble: why nothing is said about the disk."""
    stages = facts.folder.record.stages
    learning = [_learning(", ".join(one.tasks), one.steps, one.seconds) for one in stages]
    if stages:
        learning.append(_learning("all", sum(one.steps for one in stages), sum(one.seconds for one in stages)))
    phases = [
        (PHASES[one.phase], f"{one.times:,}", f"{one.seconds:,.1f}", size_of(one.peak_bytes)) for one in facts.phases
    ]
    stores = facts.kept
    if isinstance(stores, UserError):
        return {"learning": learning, "phases": phases, "kept": [], "trouble": str(stores)}
    kept = [_kept(one.task, one.samples, one.text_bytes, one.adapter_bytes) for one in stores]
    if stores:
        sums = zip(*((one.samples, one.text_bytes, one.adapter_bytes) for one in stores), strict=True)
        kept.append(_kept("all", *map(sum, sums)))
    return {"learning": learning, "phases": phases, "kept": kept, "trouble": ""}


def _learning(name: str, steps: int, seconds: float) -> Cells:
    return name, f"{steps:,}", f"{seconds:,.1f}", f"{seconds / steps:.2f}" if steps else "–"


def _kept(name: str, samples: int, text_bytes: int, adapter_bytes: int) -> Cells:
    return name, f"{samples:,}", size_of(text_bytes), size_of(adapter_bytes)
