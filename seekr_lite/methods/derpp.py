"""DER++ (Buzzega et al. 2020, arXiv 2004.07211) on a sequence of adapters.

The teacher of an old row of task j is the same base with adapter j, so its logits are computed when they are needed
and never stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from seekr_lite.data.batch import Batch
from seekr_lite.methods.baselines import Replay
from seekr_lite.methods.method import LossTerm, ReplayBatch, StepTotals
from seekr_lite.model.answer_states import AnswerStates, answer_labels, answer_span, answer_states
from seekr_lite.model.losses import cross_entropy_sum, soft_cross_entropy_sum

# Runs the model as it is set up on some rows of a micro-batch; which these are, ascending, on the host.
RunRows = Callable[[Batch, torch.Tensor], AnswerStates]


class DarkExperienceReplay(Replay):
    """L_replay = cross_entropy_weight * cross-entropy + logits_weight * H(teacher, student)."""

    name = "derpp"
    summary = "replay, and distillation of the old adapters' logits"
    teaches_old_rows = True

    def replay_loss(self, replay: ReplayBatch, totals: StepTotals) -> list[LossTerm]:
        positions = answer_span(replay.batch) + 1
        teacher = self.teacher_states(replay, lambda part, _: answer_states(self.model, part, positions=positions))
        return self.answer_terms(replay.batch, totals, answer_states(self.model, replay.batch), teacher)

    def answer_terms(
        self, batch: Batch, totals: StepTotals, student: AnswerStates, teacher: AnswerStates
    ) -> list[LossTerm]:
        """What the answers of old rows, and the teacher's logits for them, ask of the student."""
        labels = answer_labels(batch, answer_span(batch))
        soft = soft_cross_entropy_sum(student, teacher, labels, self.settings.logits_positions)
        hard = cross_entropy_sum(student, labels)
        return [
            LossTerm("replay_cross_entropy", hard / totals.label_tokens, self.settings.cross_entropy_weight),
            LossTerm("logits_distillation", soft / totals.label_tokens, self.settings.logits_weight),
        ]

    def teacher_states(self, replay: ReplayBatch, run: RunRows) -> AnswerStates:
        """The states of each row under the old adapter of its task; `run` is called once for each task, inside it."""
        tasks = sorted({row.task for row in replay.rows})
        for task in tasks:
            rows = torch.tensor([index for index, row in enumerate(replay.rows) if row.task == task])
            on_device = rows.to(replay.batch.labels.device)
            # One slot as large as the largest teacher serves all of them: nothing is allocated from task to task.
            with self.adapters.acting_as(task, slot_rank=self.adapters.teacher_rank):
                part = run(replay.batch.subset(on_device), rows)
            if task == tasks[0]:
                states = replace(part, hidden=part.hidden.new_empty(len(replay.rows), *part.hidden.shape[1:]))
            states.hidden[on_device] = part.hidden
        return states
