"""The baselines whose only loss is cross-entropy; they differ in the rows, and in where an adapter starts."""

from __future__ import annotations

from seekr_lite.methods.method import LossTerm, Method, ReplayBatch, StepTotals
from seekr_lite.model.losses import answer_cross_entropy_sum


class Sequential(Method):
    """L = cross-entropy of new rows."""

    name = "sequential"
    summary = "trains on each task in turn; nothing is kept"


class Joint(Method):
    """L = cross-entropy of the rows of all tasks, shuffled together."""

    name = "joint"
    summary = "trains on all tasks at once, as if nothing came later"
    joint = True


class Isolated(Method):
    """L = cross-entropy of new rows; task t is always answered by adapter t."""

    name = "isolated"
    summary = "a fresh adapter per task, routed by the task's name"
    starts_from_previous = False
    routed_by_task = True


class Replay(Method):
    """L = cross-entropy of new rows, and of old rows, row for row."""

    name = "replay"
    summary = "trains on a few old rows again"
    replays = True

    def replay_loss(self, replay: ReplayBatch, totals: StepTotals) -> list[LossTerm]:
        loss = answer_cross_entropy_sum(self.model, replay.batch)
        return [LossTerm("replay_cross_entropy", loss / totals.label_tokens)]
