"""EWC: elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796) on a LoRA adapter, in its online form
(Schwarz et al. 2018, arXiv 1805.06370): one Fisher information for all old tasks, around the adapter after the last.

Costs two more tensors of the adapter's size on the device, one of them kept on disk for each task; and one backward
pass of each of `fisher_rows` rows when a task ends. No old row is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from seekr_lite.common.seeds import generator_for
from seekr_lite.common.train_mode import train_mode_without_dropout
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.methods.method import LossTerm, Method, StepTotals, TaskState
from seekr_lite.model.losses import answer_cross_entropy_sum
from seekr_lite.model.snapshots import SnapshotSequence
from seekr_lite.recipe.recipe import MethodSettings


class ElasticWeightConsolidation(Method):
    """L = cross-entropy + strength / 2 * sum_i F_i (w_i - w*_i)^2.

    w* is the adapter after the task before. F_i is the mean over rows of (d log p(answer | prompt) / d w_i)^2, scaled
    for each task to a mean of 1 over the weights, and added up over tasks: F = decay * F_before + F_task. The scaling
    is that of online EWC (Schwarz et al., section 4): every task counts alike, and a strength does not depend on how
    long answers are and how well they were learned.
    """

    name = "ewc"
    summary = "holds the weights that mattered to old tasks (Fisher information)"
    reviews_rows = True
    growth = "continue"
    state_folder = "fisher"
    default_options: ClassVar = {"strength": 1.0, "fisher_rows": 64, "decay": 1.0}
    option_ranges: ClassVar = {"strength": (0, 1e12), "fisher_rows": (1, 1e9), "decay": (0, 1)}

    @classmethod
    def copies_on_device(cls, tasks: int) -> float:
        return 2  # where the adapter started, and the Fisher information

    def __init__(self, settings: MethodSettings, adapters: SnapshotSequence, seed: int) -> None:
        super().__init__(settings, adapters, seed)
        self.by_task: list[dict[str, torch.Tensor]] = []  # the Fisher information after each task, on the host

    def prepare_task(self, index: int) -> None:
        device = self.adapters.base.device
        self.start = {name: weight.detach().clone() for name, weight in self.adapters.student.items()}
        self.fisher = {name: tensor.to(device) for name, tensor in self._kept(index - 1).items()}

    def new_task_loss(self, batch: Batch, totals: StepTotals) -> list[LossTerm]:
        return [*super().new_task_loss(batch, totals), *self.penalty_terms(batch, totals)]

    def penalty_terms(self, batch: Batch, totals: StepTotals) -> list[LossTerm]:
        """The penalty with its weight; none while the first task is learned."""
        if not self.fisher:
            return []
        share = len(batch.labels) / totals.rows  # of the step, which may have several micro-batches
        return [LossTerm("weight_consolidation", self.penalty() * share, float(self.options["strength"]) / 2)]

    def penalty(self) -> torch.Tensor:
        """sum_i F_i (w_i - w*_i)^2."""
        student = self.adapters.student
        moved = [(fisher * (student[name] - self.start[name]).square()).sum() for name, fisher in self.fisher.items()]
        return torch.stack(moved).sum()

    def review_task(self, index: int, rows: Sequence[EncodedExample]) -> None:
        count = min(len(rows), int(self.options["fisher_rows"]))
        chosen = generator_for(self.seed, "fisher", index).sample(range(len(rows)), count)
        new, old = with_mean_one(self._mean_square_gradients([rows[place] for place in chosen])), self._kept(index - 1)
        decay = float(self.options["decay"])
        self.by_task[index:] = [{name: tensor + decay * old[name] if old else tensor for name, tensor in new.items()}]

    def _mean_square_gradients(self, rows: Sequence[EncodedExample]) -> dict[str, torch.Tensor]:
        """The empirical Fisher information of the student's weights, on the host, row by row."""
        student = self.adapters.student
        total = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in student.items()}
        with train_mode_without_dropout(self.model):
            for row in rows:
                batch = collate([row], self.adapters.base.tokenizer.pad_token_id).to(self.adapters.base.device)
                loss = answer_cross_entropy_sum(self.model, batch)
                for name, gradient in zip(student, torch.autograd.grad(loss, list(student.values())), strict=True):
                    total[name] += gradient.float().square()
        return {name: (tensor / len(rows)).cpu() for name, tensor in total.items()}

    # ------------------------------------------------------------------ state

    def _kept(self, index: int) -> dict[str, torch.Tensor]:
        """The Fisher information after task `index`; empty where there is none, as before the first."""
        return self.by_task[index] if 0 <= index < len(self.by_task) else {}

    def task_state(self, index: int) -> TaskState:
        return TaskState(tensors=self.by_task[index], values={"fisher_rows": self.options["fisher_rows"]})

    def load_task_state(self, index: int, state: TaskState) -> None:
        self.by_task[index:] = [state.tensors]


def with_mean_one(fisher: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Scaled so that the mean over all weights is 1; what is zero everywhere stays so."""
    total = sum(float(tensor.double().sum()) for tensor in fisher.values())
    mean = total / sum(tensor.numel() for tensor in fisher.values())
    return {name: tensor / mean if mean > 0 else tensor for name, tensor in fisher.items()}
