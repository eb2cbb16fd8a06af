"""LwF: learning without forgetting (Li & Hoiem 2016, arXiv 1606.09282) on a sequence of adapters.

The adapter before is run on the *new* rows, and the student is held to what it says of them. Costs one more forward
pass of every new row, and the slot through which the old adapter acts. No old row is kept.
"""

from __future__ import annotations

from typing import ClassVar

from seekr_lite.data.batch import Batch
from seekr_lite.methods.method import LossTerm, Method, StepTotals
from seekr_lite.model.answer_states import answer_labels, answer_span, answer_states
from seekr_lite.model.losses import cross_entropy_sum, soft_cross_entropy_sum


class LearningWithoutForgetting(Method):
    """L = cross-entropy + strength * T^2 * H(softmax(old / T), softmax(new / T)), both of the new rows.

    H is the soft cross-entropy of the logits that predict the answers; T^2 keeps its gradient's size (Hinton et al.
    2015, arXiv 1503.02531).
    """

    name = "lwf"
    summary = "distils the adapter before on the new rows"
    teaches_new_rows = True
    default_options: ClassVar = {"strength": 3.0, "temperature": 2.0}
    option_ranges: ClassVar = {"strength": (0, 1e9), "temperature": (0.01, 1000)}

    def prepare_task(self, index: int) -> None:
        self.before = index - 1

    def new_task_loss(self, batch: Batch, totals: StepTotals) -> list[LossTerm]:
        if self.before < 0:
            return super().new_task_loss(batch, totals)
        with self.adapters.acting_as(self.before):
            teacher = answer_states(self.model, batch)
        student = answer_states(self.model, batch)
        labels, temperature = answer_labels(batch, answer_span(batch)), float(self.options["temperature"])
        soft = soft_cross_entropy_sum(student, teacher, labels, "predictions", temperature)
        return [
            LossTerm("cross_entropy", cross_entropy_sum(student, labels) / totals.label_tokens),
            LossTerm(
                "old_adapter_distillation",
                soft / totals.label_tokens,
                float(self.options["strength"]) * temperature**2,
            ),
        ]
