"""Experience replay: a few old rows are trained on again (Chaudhry et al. 2019, arXiv 1902.10486)."""

from __future__ import annotations

from seekr_lite.methods.answer_states import answer_labels, answer_span, answer_states
from seekr_lite.methods.losses import cross_entropy_sum
from seekr_lite.methods.method import LossTerm, Method, ReplayBatch, StepTotals


class Replay(Method):
    """L = cross-entropy of new rows, and of old rows, row for row."""

    name = "replay"
    summary = "trains on a few old rows again"
    replays = True

    def replay_loss(self, replay: ReplayBatch, totals: StepTotals) -> list[LossTerm]:
        states = answer_states(self.model, replay.batch)
        labels = answer_labels(replay.batch, answer_span(replay.batch))
        return [LossTerm("replay_cross_entropy", cross_entropy_sum(states, labels) / totals.label_tokens)]
