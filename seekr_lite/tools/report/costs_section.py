"""The costs in a report: time of learning by task, time and memory by phase, bytes on disk."""

from __future__ import annotations

from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.common.html_page import size_of
from seekr_lite.tools.report.run_facts import RunFacts
from seekr_lite.tools.report.step_curves import PHASES


def cost_tables(facts: RunFacts) -> dict[str, Any]:
    """learning, phases, kept: rows of cells. trouble: why nothing is said about the disk."""
    stages = facts.folder.record.stages
    spent = [(", ".join(one.tasks), one.steps, one.seconds) for one in stages]
    if stages:
        spent.append(("all", sum(one.steps for one in stages), sum(one.seconds for one in stages)))
    learning = [
        (name, f"{steps:,}", f"{seconds:,.1f}", f"{seconds / steps:.2f}" if steps else "–")
        for name, steps, seconds in spent
    ]
    phases = [
        (PHASES[one.phase], f"{one.times:,}", f"{one.seconds:,.1f}", size_of(one.peak_bytes)) for one in facts.phases
    ]
    stores = facts.kept
    if isinstance(stores, UserError):
        return {"learning": learning, "phases": phases, "kept": [], "trouble": str(stores)}
    sizes = [(one.task, one.samples, one.text_bytes, one.adapter_bytes) for one in stores]
    if stores:
        _, samples, texts, adapters = zip(*sizes, strict=True)
        sizes.append(("all", sum(samples), sum(texts), sum(adapters)))
    kept = [(name, f"{count:,}", size_of(text), size_of(adapter)) for name, count, text, adapter in sizes]
    return {"learning": learning, "phases": phases, "kept": kept, "trouble": ""}
