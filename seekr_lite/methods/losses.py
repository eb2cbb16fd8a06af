"""The losses of answers. Legend: r rows, a answer positions kept (left-padded rows end together), v vocabulary."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from seekr_lite.attention.tap import Recorder
from seekr_lite.data.batch import Batch


def answer_logits(
    model: torch.nn.Module, batch: Batch, recorder: Recorder | None = None, positions: int | None = None
) -> torch.Tensor:
    """Logits `[r, a + 1, v]` of the last positions only: those that hold the answers, and the one before.

    The output layer never runs on the prompt: with a large vocabulary that is most of the memory. `positions`
    overrides a + 1.
    """
    kept = answer_span(batch) + 1 if positions is None else positions
    options = {} if recorder is None else {"attention_recorder": recorder}
    logits: torch.Tensor = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=kept,
        use_cache=False,
        **options,
    ).logits
    return logits


def answer_span(batch: Batch) -> int:
    """a: the longest answer of the batch, in tokens; rows are padded on the left, so answers end together."""
    return int((batch.labels != -100).sum(-1).max())


def answer_labels(batch: Batch, span: int) -> torch.Tensor:
    """The labels `[r, span]` that `answer_logits(...)[:, :-1]` predicts; -100 where a row's answer is shorter."""
    return batch.labels[:, batch.labels.shape[1] - span :]


def cross_entropy_sum(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over answer tokens of -log p(token). logits `[r, a + 1, v]`, labels `[r, a]`."""
    predictions = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
    return F.cross_entropy(predictions, labels.reshape(-1), ignore_index=-100, reduction="sum")


def soft_cross_entropy_sum(
    logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor, positions: str
) -> torch.Tensor:
    """Sum over answer tokens of -sum_v p_teacher(v) log p_student(v) (DER++; SEEKR, eq. 9).

    Args:
        logits, teacher_logits: `[r, a + 1, v]`.
        labels: `[r, a]`.
        positions: "predictions" compares the positions that predict the answer; "labels" the positions that hold
            it, one to the right, as the official code does.
    """
    chosen = labels != -100
    aligned = slice(0, -1) if positions == "predictions" else slice(1, None)
    student = logits[:, aligned][chosen].float().log_softmax(-1)  # [tokens, v]
    teacher = teacher_logits[:, aligned][chosen].float().softmax(-1)
    return -(teacher * student).sum()
