"""DER++ (Buzzega et al. 2020, arXiv 2004.07211) on a sequence of adapters.

The teacher of an old row of task j is the same base with adapter j, so its logits are computed when they are needed
and never stored. It is SEEKR without the attention term.
"""

from __future__ import annotations

import torch

from seekr_lite.attention.tap import HeadPairs, HeadRecorder, RecordedHeads
from seekr_lite.methods.baselines import Replay
from seekr_lite.methods.method import LossTerm, ReplayBatch, StepTotals
from seekr_lite.model.answer_states import AnswerStates, answer_labels, answer_span, answer_states
from seekr_lite.model.losses import cross_entropy_sum, soft_cross_entropy_sum

LayerPairs = dict[int, HeadPairs]
LayerHeads = dict[int, RecordedHeads]


class DarkExperienceReplay(Replay):
    """L_replay = cross_entropy_weight * cross-entropy + logits_weight * H(teacher, student)."""

    name = "derpp"
    summary = "replay, and distillation of the old adapters' logits"
    teaches_old_rows = True

    def replay_loss(self, replay: ReplayBatch, totals: StepTotals) -> list[LossTerm]:
        pairs = self.watched_heads(replay)
        span = answer_span(replay.batch)
        teacher, teacher_heads = self._teach(replay, pairs, span + 1)
        device = replay.batch.labels.device
        recorder = HeadRecorder({layer: chosen.to(device) for layer, chosen in pairs.items()}) if pairs else None
        student = answer_states(self.model, replay.batch, recorder)
        labels = answer_labels(replay.batch, span)
        soft = soft_cross_entropy_sum(student, teacher, labels, self.settings.logits_positions)
        terms = [
            LossTerm(
                "replay_cross_entropy",
                cross_entropy_sum(student, labels) / totals.label_tokens,
                self.settings.cross_entropy_weight,
            ),
            LossTerm("logits_distillation", soft / totals.label_tokens, self.settings.logits_weight),
        ]
        if recorder is not None:
            student_heads = {layer: recorder.of(layer) for layer in pairs}
            terms.append(self.attention_term(replay, totals, pairs, student_heads, teacher_heads))
        return terms

    def watched_heads(self, replay: ReplayBatch) -> LayerPairs:
        """The heads of each row that are distilled, on the host, where nobody waits for a GPU to count them: none."""
        return {}

    def attention_term(
        self,
        replay: ReplayBatch,
        totals: StepTotals,
        pairs: LayerPairs,
        student: LayerHeads,
        teacher: LayerHeads,
    ) -> LossTerm:
        """The attention term of watched heads."""
        raise AssertionError("a method that watches heads must say what they cost")

    def _teach(self, replay: ReplayBatch, pairs: LayerPairs, positions: int) -> tuple[AnswerStates, LayerHeads]:
        """Each row's own old adapter, run on the rows of its task: its states at the answers, and watched heads."""
        batch, device = replay.batch, replay.batch.labels.device
        states: AnswerStates | None = None
        heads: LayerHeads = {}
        for task in sorted({row.task for row in replay.rows}):
            rows = torch.tensor([index for index, row in enumerate(replay.rows) if row.task == task])
            masks_and_pairs = {layer: chosen.subset(rows) for layer, chosen in pairs.items()}
            recorder = HeadRecorder({layer: chosen.to(device) for layer, (_, chosen) in masks_and_pairs.items()})
            rows = rows.to(device)
            with self.adapters.acting_as(task, slot_rank=self.adapters.teacher_rank):
                part = answer_states(self.model, batch.subset(rows), recorder if pairs else None, positions)
            if states is None:
                states = part.with_hidden(part.hidden.new_empty(len(replay.rows), *part.hidden.shape[1:]))
            states.hidden[rows] = part.hidden
            for layer, (mask, _) in masks_and_pairs.items():
                _scatter(heads, layer, len(mask), mask.nonzero()[:, 0].to(device), recorder.of(layer))
        assert states is not None
        return states, heads


def _scatter(heads: LayerHeads, layer: int, size: int, places: torch.Tensor, part: RecordedHeads) -> None:
    """Puts the pairs of one task in their places among the `size` pairs of the whole batch."""
    if layer not in heads:
        query, key = part.query.new_empty(size, *part.query.shape[1:]), part.key.new_empty(size, *part.key.shape[1:])
        heads[layer] = RecordedHeads(query, key, part.scale, part.window)
    heads[layer].query[places] = part.query
    heads[layer].key[places] = part.key
