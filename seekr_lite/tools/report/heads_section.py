"""The attention heads in a report: a panel of heatmaps for each task, a slider over them, how the choice moved."""

from __future__ import annotations

from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.tools.heads.heads import Heads
from seekr_lite.tools.report.run_facts import RunFacts


def heads_or_why_not(facts: RunFacts) -> dict[str, Any]:
    """What the panels show; or `no_heads`, one sentence. No values to point at: they would make a large page."""
    heads = facts.heads
    if isinstance(heads, Heads):
        return heads.panels(slider=True, hover=False)
    if isinstance(heads, UserError):
        why = f"The head scores cannot be read. {heads}"
    elif facts.learned:
        why = "There are no head scores: this method scores none (SEEKR does)."
    else:
        why = "No head is scored yet: no task has been learned to its end."
    return {"heads": None, "no_heads": why}
