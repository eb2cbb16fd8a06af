"""What is logged of each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from seekr_lite.common.errors import Stopped
from seekr_lite.common.progress import current_listener
from seekr_lite.data.task import Task
from seekr_lite.methods.memory import ReplayRow
from seekr_lite.recipe.recipe import TrainSettings
from seekr_lite.training.schedule import Step
from seekr_lite.training.step_gradients import TermValues


class StepLog:
    """Sends an event for each step of a stage.

    It waits for the device, once a step, for all numbers together: whether the step may change the student hangs on
    them. (To ask for the numbers of the step before waits just as long: what is asked of a device comes after all work
    that it has been given.)
    """

    def __init__(self, stage: int, task: str) -> None:
        self.stage = stage
        self.task = task

    def add(
        self,
        number: int,
        epoch: int,
        learning_rate: float,
        norm: torch.Tensor,
        terms: TermValues,
        rows: Callable[[], StepRows],
    ) -> bool:
        """Logs step `number`: its numbers, or, where they are not all finite, its rows. Returns whether they are."""
        values, norms, total = terms.numbers(norm)
        place = {"stage": self.stage, "step": number, "epoch": epoch}
        if all(map(math.isfinite, (total, *values.values()))):
            norms = {name: norm for name, norm in norms.items() if math.isfinite(norm)}
            current_listener().event(
                "step",
                **place,
                learning_rate=learning_rate,
                gradient_norm=total,
                **values,
                **({"term_gradient_norms": norms} if norms else {}),
            )
            return True
        named = rows()
        # As text: JSON has no numbers that are not finite.
        shown = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        current_listener().event(
            "bad_step", **place, gradient_norm=str(total), **shown, rows=named.new, replayed=named.replay
        )
        current_listener().say(
            f"learning {self.task}: step {number} is left out, since its loss or gradient is not finite ({named})"
        )
        return False


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


def stops(settings: TrainSettings, in_a_row: int, total: int) -> bool:
    """Whether so many bad steps in a row stop the run. Where all `total` steps are bad, nothing would be learned."""
    return in_a_row >= min(total, 1 if settings.on_bad_loss == "stop" else settings.bad_steps_limit)


def stopped_by(task: str, number: int, in_a_row: int, total: int, rows: StepRows, settings: TrainSettings) -> Stopped:
    """The error for a run that stops at step `number` of `total`."""
    times = f", for {in_a_row} steps in a row" if in_a_row > 1 else ""
    key = "train.on_bad_loss=skip" if settings.on_bad_loss == "stop" else f"train.bad_steps_limit={10 * in_a_row}"
    skip = f"To leave more of them out and go on, run the same command with --set {key}. " if in_a_row < total else ""
    return Stopped(
        f"learning {task}: the loss or its gradient is not finite{times} (step {number}: {rows}; counted from 0). "
        f"No such step has changed the adapter, and everything before is kept. {skip}To mend the cause, look at these "
        "rows, lower train.learning_rate or method.attention_weight, or compute in float32 (base.dtype), and start "
        "anew (--fresh)"
    )


def _by_task(places: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for task, row in places:
        found.setdefault(task, []).append(row)
    return found


def _listed(rows: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(rows)))
