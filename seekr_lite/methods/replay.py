"""Experience replay: a few old rows are trained on again (Chaudhry et al. 2019, arXiv 1902.10486)."""

from __future__ import annotations

from seekr_lite.methods.method import LossTerm, Method, ReplayBatch, StepTotals
from seekr_lite.model.losses import answer_cross_entropy_sum


class Replay(Method):
    """L = cross-entropy of new rows, and of old rows, row for row."""

    name = "replay"
    summary = "trains on a few old rows again"
    replays = True

    def replay_loss(self, replay: ReplayBatch, totals: StepTotals) -> list[LossTerm]:
        loss = answer_cross_entropy_sum(self.model, replay.batch)
        return [LossTerm("replay_cross_entropy", loss / totals.label_tokens)]
