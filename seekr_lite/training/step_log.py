"""What is logged of each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seekr_lite.common.progress import current_listener
from seekr_lite.data.task import Task
from seekr_lite.methods.replay_memory import ReplayRow
from seekr_lite.training.replay_schedule import Step
from seekr_lite.training.step_gradients import StepNumbers


@dataclass(frozen=True)
class StepPlace:
    """Which step it is: its stage, its number in the stage from 1, and its epoch from 0."""

    stage: int
    step: int
    epoch: int


def log_step(place: StepPlace, learning_rate: float, numbers: StepNumbers) -> None:
    """An event with the numbers of a step that is done."""
    norms = {name: norm for name, norm in numbers.norms.items() if math.isfinite(norm)}
    current_listener().event(
        "step",
        **vars(place),
        learning_rate=learning_rate,
        gradient_norm=numbers.gradient_norm,
        **numbers.values,
        **({"term_gradient_norms": norms} if norms else {}),
    )


def log_bad_step(place: StepPlace, task: str, numbers: StepNumbers, rows: StepRows) -> None:
    """An event, and a line for the reader, with the rows of a step that is left out."""
    # As text: JSON has no numbers that are not finite.
    shown = {name: value if math.isfinite(value) else str(value) for name, value in numbers.values.items()}
    norm = str(numbers.gradient_norm)
    current_listener().event(
        "bad_step", **vars(place), gradient_norm=norm, **shown, rows=rows.new, replayed=rows.replay
    )
    current_listener().say(
        f"learning {task}: step {place.step} is left out, since its loss or gradient is not finite ({rows})"
    )


@dataclass(frozen=True)
class StepRows:
    """The rows of a step, by task: of its training rows (those held out are not counted), and of its kept samples.

    Counted from 0, as in `Task.train` and in the files of `memory/`.
    """

    new: dict[str, list[int]]
    replay: dict[str, list[int]]

    @classmethod
    def of(cls, step: Step, tasks: Sequence[Task], past: Sequence[Task], old: Sequence[ReplayRow]) -> StepRows:
        """tasks: what is being learned; `step.new` counts through their rows. past: what `old` comes from."""
        places = [(task.name, row) for task in tasks for row in range(len(task.train))]
        return cls(
            _by_task([places[index] for index in step.new]),
            _by_task([(past[old[index].task].name, old[index].sample) for index in step.replay]),
        )

    def __str__(self) -> str:
        parts = [f"rows {_listed(rows)} of {task}" for task, rows in self.new.items()]
        parts += [f"replayed samples {_listed(rows)} of {task}" for task, rows in self.replay.items()]
        return "; ".join(parts)


def _by_task(places: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for task, row in places:
        found.setdefault(task, []).append(row)
    return found


def _listed(rows: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(rows)))
