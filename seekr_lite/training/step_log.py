"""What is logged of each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from seekr_lite.bad_steps import StepRows
from seekr_lite.common.progress import Listener
from seekr_lite.training.step_gradients import TermValues


class StepLog:
    """Sends an event for each step of a stage.

    It waits for the device, once a step, for all numbers together: whether the step may change the student hangs on
    them. (To ask for the numbers of the step before waits just as long: what is asked of a device comes after all work
    that it has been given.)
    """

    def __init__(self, listener: Listener, stage: int, task: str) -> None:
        self.listener = listener
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
            self.listener.event(
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
        self.listener.event(
            "bad_step", **place, gradient_norm=str(total), **shown, rows=named.new, replayed=named.replay
        )
        self.listener.say(
            f"learning {self.task}: step {number} is left out, since its loss or gradient is not finite ({named})"
        )
        return False
