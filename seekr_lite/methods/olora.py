"""O-LoRA: orthogonal subspaces for the LoRAs of different tasks (Wang et al. 2023, arXiv 2310.14152).

Every task gets a fresh LoRA on top of the frozen sum of the earlier ones, whatever `adapter.growth` says. Costs the
frozen sum, of rank k r, on the device, and its A a second time for the loss. No old row is kept.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from seekr_lite.data.batch import Batch
from seekr_lite.methods.method import LossTerm, Method, StepTotals


class OrthogonalLora(Method):
    """L = cross-entropy + strength * mean over layers of sum over earlier LoRAs i of sum |A_i A^T|.

    A is `[rank, in]`: its rows span the directions of the input that a LoRA looks at. The official code has the sum
    over layers in place of the mean, so that its weight of 0.5 depends on how many layers there are.
    """

    name = "olora"
    summary = "a fresh LoRA per task, orthogonal to the frozen earlier ones"
    growth = "stack"
    default_options: ClassVar = {"strength": 500.0}
    option_ranges: ClassVar = {"strength": (0, 1e9)}

    @classmethod
    def copies_on_device(cls, tasks: int) -> float:
        return (tasks - 1) / 2  # A is about half of a LoRA

    def prepare_task(self, index: int) -> None:
        device = self.adapters.base.device
        earlier = self.adapters.snapshots[index - 1].weights if index else {}
        self.earlier = {name: tensor.to(device) for name, tensor in earlier.items() if ".lora_A." in name}

    def new_task_loss(self, batch: Batch, totals: StepTotals) -> list[LossTerm]:
        terms = super().new_task_loss(batch, totals)
        if self.earlier:
            share = len(batch.labels) / totals.rows  # of the step, which may have several micro-batches
            terms.append(LossTerm("orthogonality", self.overlap() * share, float(self.options["strength"])))
        return terms

    def overlap(self) -> torch.Tensor:
        """Mean over layers of sum |A_earlier A^T|, where A_earlier `[k rank, in]` holds all earlier LoRAs."""
        student = self.adapters.student
        return torch.stack([(old @ student[name].T).abs().sum() for name, old in self.earlier.items()]).mean()
