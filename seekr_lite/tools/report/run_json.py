"""What a report's page shows, as plain values: for other programs, and for pages of one's own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.runs.folder import RunFolder
from seekr_lite.tools.heads.heads import Heads
from seekr_lite.tools.report.run_facts import RunFacts


def run_json(folder: RunFolder) -> dict[str, Any]:
    """All of the page but the predictions, which lie as JSON lines in the run folder. Works for unfinished runs too.

    scores: as in `scores.json`, with the general texts that were measured since. losses: means over `window` steps of
    one task, as they are drawn. costs: by task. phases: the same run by phase, as far as the log has it. problems:
    files that should be there and cannot be read.
    """
    facts = RunFacts.of(folder)
    problems = [str(one) for one in (*facts.trouble, facts.heads, facts.kept) if isinstance(one, str | UserError)]
    return {
        "run": facts.name,
        "method": facts.method,
        "seed": facts.folder.record.seed,
        "tasks": list(facts.tasks),
        "finished": facts.finished,
        "missing": facts.missing(),
        "scores": facts.board.to_json(),
        "losses": _losses(facts),
        "heads": facts.heads.to_json() if isinstance(facts.heads, Heads) else None,
        "costs": _costs(facts),
        "phases": [asdict(one) for one in facts.phases],
        "recipe": facts.recipe.model_dump(mode="json"),
        "versions": facts.folder.record.versions,
        "problems": problems,
    }


def _losses(facts: RunFacts) -> dict[str, Any]:
    curves = facts.curves
    names = {stage: ", ".join(one.tasks) for stage, one in enumerate(facts.folder.record.stages)}
    return {
        "steps": curves.total,
        "window": curves.window,
        "starts": [
            {"task": names.get(stage, facts.tasks[stage] if stage < len(facts.tasks) else None), "after_step": before}
            for stage, before in curves.starts.items()
        ],
        "curves": {name: [vars(mean) for mean in curves.smoothed(name) if mean is not None] for name in curves.names},
        "bad_steps": curves.bad,
        "out_of_memory": curves.shrunk,
        "unreadable_lines": curves.unreadable,
    }


def _costs(facts: RunFacts) -> list[dict[str, Any]]:
    """Of learning, by task: steps and seconds; and what is kept on disk, where that can be read."""
    costs = [{"tasks": one.tasks, "steps": one.steps, "seconds": one.seconds} for one in facts.folder.record.stages]
    if isinstance(facts.kept, UserError):
        return costs
    kept = [
        {"replay_samples": one.samples, "replay_text_bytes": one.text_bytes, "adapter_bytes": one.adapter_bytes}
        for one in facts.kept
    ]
    return [cost | store for cost, store in zip(costs, kept, strict=True)]
