"""What is logged of each optimizer step, one step late: so no step waits for the numbers of the one before."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from seekr_lite.errors import UserError
from seekr_lite.methods.schedule import Step
from seekr_lite.progress import Listener
from seekr_lite.step_gradients import TermValues


class StepLog:
    """Sends an event for each step of a task, and stops the run when a loss is not finite any more.

    Args:
        stage, task: which stage it is, and its (first) task's name, for the message.
        steps: how many are done already.
    """

    def __init__(self, listener: Listener, stage: int, task: str, steps: int = 0) -> None:
        self.listener = listener
        self.stage = stage
        self.task = task
        self.steps = steps
        self._waiting: Callable[[], None] | None = None

    def add(self, step: Step, epoch: int, learning_rate: float, norm: torch.Tensor | float, terms: TermValues) -> None:
        """Takes a step; sends the one before."""
        before, number = self._waiting, self.steps + 1

        def send() -> None:
            values, norms = terms.numbers()
            total = float(norm)
            if not math.isfinite(total):
                raise UserError(
                    f"learning {self.task}: the loss is not finite any more (step {number}, rows "
                    f"{list(step.new)[:8]}). Lower train.learning_rate or method.attention_weight, or compute in "
                    "float32 (base.dtype)"
                )
            self.listener.event(
                "step",
                stage=self.stage,
                step=number,
                epoch=epoch,
                learning_rate=learning_rate,
                gradient_norm=total,
                **values,
                **({"term_gradient_norms": norms} if norms else {}),
            )

        self.steps, self._waiting = number, send
        if before is not None:
            before()

    def flush(self) -> None:
        """Sends the last step."""
        if self._waiting is not None:
            self._waiting()
            self._waiting = None
