"""Which steps may change the student, and when those that may not stop the run."""

from __future__ import annotations

import math

from seekr_lite.common.errors import Stopped
from seekr_lite.recipe.recipe import TrainSettings
from seekr_lite.training.step_gradients import StepNumbers
from seekr_lite.training.step_log import StepRows


class Guard:
    """Keeps out a step whose loss or gradient is not finite: one makes every weight and both of Adam's moments NaN.

    Args:
        settings: what bad steps lead to (`on_bad_loss`), and how many in a row are too many (`bad_steps_limit`).
        total: steps of the stage. Where all of them are bad, nothing would be learned.
    """

    def __init__(self, settings: TrainSettings, total: int) -> None:
        self.limit = min(total, 1 if settings.on_bad_loss == "stop" else settings.bad_steps_limit)
        self.settings = settings
        self.total = total
        self.bad_steps = 0  # in a row, up to here

    def admits(self, numbers: StepNumbers) -> bool:
        """Whether the step may change the student."""
        finite = all(map(math.isfinite, (numbers.gradient_norm, *numbers.values.values())))
        self.bad_steps = 0 if finite else self.bad_steps + 1
        return finite

    @property
    def gives_up(self) -> bool:
        """Whether too many steps in a row were bad."""
        return self.bad_steps >= self.limit

    def error(self, task: str, number: int, rows: StepRows) -> Stopped:
        """What to say where it gives up, at step `number` of the stage."""
        times = f", for {self.bad_steps} steps in a row" if self.bad_steps > 1 else ""
        key = "on_bad_loss=skip" if self.settings.on_bad_loss == "stop" else f"bad_steps_limit={10 * self.bad_steps}"
        skip = f"To leave more of them out and go on, run the same command with --set train.{key}. "
        return Stopped(
            f"learning {task}: the loss or its gradient is not finite{times} (step {number}: {rows}; counted from 0). "
            f"No such step has changed the adapter, and everything before is kept. "
            f"{skip if self.bad_steps < self.total else ''}To mend the cause, look at these rows, lower "
            "train.learning_rate or method.attention_weight, or compute in float32 (base.dtype), and start anew "
            "(--fresh)"
        )
