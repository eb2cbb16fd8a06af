"""The run that is tortured, what must come of it, and where a run stands: shared by `torture.py` and `crashes.py`.

It is the quickstart with two tasks and fewer rows; checkpoints every two steps.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekr_lite.evaluation.scoreboard import planned_evaluations
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.lock import LOCK_FILE

ROOT = Path(__file__).parents[1]
METHODS, GROWTHS = ("sequential", "replay", "derpp", "seekr"), ("continue", "stack")
TASKS = ("shade", "keeper")
CHECKPOINT_STEPS = 2
COMPARED = ("adapters", "memory", "heads", "predictions", "scores.json")


def recipe_for(method: str, growth: str) -> Recipe:
    return Recipe.from_toml(ROOT / "recipes" / "quickstart.toml").with_(
        adapter={"growth": growth, "dropout": 0.1},
        data={"tasks": TASKS, "train_limit": 64, "test_limit": 12, "validation_rows": 8},
        train={"epochs": 2},
        method={"name": method, "replay_passes": 2.0},
        evaluate={"batch_tokens": 64},
        run={"checkpoint_steps": CHECKPOINT_STEPS},
    )


@dataclass(frozen=True)
class Outcome:
    """What one torture came to.

    phases: where the run stood at each interruption. repeated, allowed: steps that were done twice, and how many may
    be. problem: what else went wrong, in words.
    """

    what: str
    phases: tuple[str, ...]
    equal: bool
    repeated: int
    allowed: int
    problem: str = ""

    @property
    def passes(self) -> bool:
        return self.equal and self.repeated <= self.allowed and not self.problem


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts of interruptions, by phase, and the outcomes that fail."""
    phases = Counter(phase for outcome in outcomes for phase in outcome.phases)
    return {
        "runs": len(outcomes),
        "interruptions": phases.total(),
        "by_phase": dict(sorted(phases.items())),
        "most_steps_repeated_in_a_run": max((outcome.repeated for outcome in outcomes), default=0),
        "failed": [vars(outcome) for outcome in outcomes if not outcome.passes],
    }


# ---------------------------------------------------------------------- what a folder shows


def artefacts(folder: Path) -> dict[str, bytes]:
    """Everything that must be equal: path -> content."""
    files = [file for part in COMPARED for file in [folder / part, *(folder / part).rglob("*")] if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def logged_steps(folder: Path) -> list[tuple[int, int]]:
    """(stage, step) of every step in `log.jsonl`; a line that is just being written does not count."""
    found = []
    try:
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["event"] == "step":
            found.append((int(event["stage"]), int(event["step"])))
    return found


def steps_done_twice(folder: Path) -> int:
    """Steps that `log.jsonl` has more than once: how many times too often, together."""
    return sum(count - 1 for count in Counter(logged_steps(folder)).values())


@dataclass(frozen=True)
class Whole:
    """The run that is never interrupted: its folder, what it made, how many steps each stage has, how long it takes."""

    folder: Path
    method: str
    seconds: float = 0.0
    artefacts: dict[str, bytes] = field(default_factory=dict)
    steps: tuple[int, ...] = ()

    @classmethod
    def of(cls, folder: Path, seconds: float = 0.0) -> Whole:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        steps = tuple(int(stage["steps"]) for stage in record["stages"])
        return cls(folder, record["method"], seconds, artefacts(folder), steps)

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that such a run passes through, but for the moments before and after all work."""
        replay = () if self.method == "sequential" else ("replay",)
        scoring = ("scoring",) if self.method == "seekr" else ()
        return ("training", *replay, *scoring, "saving", "evaluation")

    def phase_of(self, folder: Path) -> str:
        """Where a run stands, or stood when it was killed, as far as its folder shows it."""
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return "starting"
        names = [name for _, folders, files in os.walk(folder) for name in [*folders, *files]]
        if any(name.startswith(".") and name != LOCK_FILE for name in names):
            return "saving"  # a file that has not taken its place yet
        stage = len(record["stages"])
        tested = {(one["after"], one["task"]) for one in record["evaluations"]}
        planned = planned_evaluations(len(TASKS), "diagonal-and-last", joint=False)
        if any(after is not None and after < stage and (after, TASKS[task]) not in tested for after, task in planned):
            return "evaluation"
        if stage == len(self.steps):
            return "finishing"
        if max((step for of, step in logged_steps(folder) if of == stage), default=0) >= self.steps[stage]:
            return "scoring" if self.method == "seekr" else "saving"
        return "training" if stage == 0 or self.method == "sequential" else "replay"
