"""The losses of answers, in chunks of answer positions: no more than a chunk is ever as wide as the vocabulary.

The gradient with respect to the hidden states is taken along with the value, chunk by chunk, so that nothing of a
chunk is kept for the backward pass. Legend as in `answer_states.py`; t answer tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from seekr_lite.data.batch import Batch
from seekr_lite.model.answer_states import AnswerStates, answer_labels, answer_span, answer_states

CHUNK_TOKENS = 256

ChunkLoss = Callable[[torch.Tensor, slice], torch.Tensor]  # hidden states [c, h], which of all they are -> a sum


def cross_entropy_sum(
    states: AnswerStates, labels: torch.Tensor, row_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum over answer tokens of -log p(token). labels `[r, a]`, -100 where there is no answer; row_weights `[r]`."""
    chosen = labels != -100
    targets = labels[chosen]  # [t]: padding and prompts never reach the output layer
    weights = None if row_weights is None else row_weights[:, None].expand_as(labels)[chosen]

    def loss(hidden: torch.Tensor, chunk: slice) -> torch.Tensor:
        logits = _precise(states.to_logits(hidden))
        if weights is None:
            return F.cross_entropy(logits, targets[chunk], reduction="sum")
        return (F.cross_entropy(logits, targets[chunk], reduction="none") * weights[chunk]).sum()

    return chunked_sum(states.hidden[:, :-1][chosen], loss)


def answer_cross_entropy_sum(model: Any, batch: Batch, **options: Any) -> torch.Tensor:
    """`cross_entropy_sum` of a batch's answers under the model as it is set up now; options as of `answer_states`."""
    states = answer_states(model, batch, **options)
    return cross_entropy_sum(states, answer_labels(batch, answer_span(batch)))


def soft_cross_entropy_sum(
    states: AnswerStates, teacher: AnswerStates, labels: torch.Tensor, positions: str, temperature: float = 1.0
) -> torch.Tensor:
    """Sum over answer tokens of -sum_v p_teacher(v) log p_student(v) (DER++; SEEKR, eq. 9).

    Args:
        labels: `[r, a]`.
        positions: "predictions" compares the positions that predict the answer; "labels" the positions that hold
            it, one to the right, as the official code does.
        temperature: both sides' logits are divided by it.
    """
    chosen = labels != -100
    aligned = slice(0, -1) if positions == "predictions" else slice(1, None)
    teacher_hidden = teacher.hidden[:, aligned][chosen]  # [t, h]

    def loss(hidden: torch.Tensor, chunk: slice) -> torch.Tensor:
        # The teacher's logits are made here, of its hidden states: kept for all tokens they would be [t, v].
        with torch.no_grad():
            target = (_precise(teacher.to_logits(teacher_hidden[chunk])) / temperature).softmax(-1)
        return -(target * (_precise(states.to_logits(hidden)) / temperature).log_softmax(-1)).sum()

    return chunked_sum(states.hidden[:, aligned][chosen], loss)


def _precise(logits: torch.Tensor) -> torch.Tensor:
    """In fp32 at least: exponentials of half precision are too coarse."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def chunked_sum(hidden: torch.Tensor, loss: ChunkLoss, chunk_tokens: int = CHUNK_TOKENS) -> torch.Tensor:
    """Sum of `loss` over chunks of hidden states `[t, h]`; gradients reach the hidden states only."""
    result: torch.Tensor = _ChunkedSum.apply(hidden, loss, chunk_tokens)
    return result


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, loss: ChunkLoss, chunk_tokens: int) -> torch.Tensor:  # type: ignore[override]
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for first in range(0, len(hidden), chunk_tokens):
            chunk = slice(first, first + chunk_tokens)
            if gradient is None:
                total += loss(hidden[chunk], chunk)
                continue
            # A graph of one chunk only; it is gone before the next one is made, and with it all that is v wide.
            with torch.enable_grad():
                part = hidden[chunk].detach().requires_grad_()
                value = loss(part, chunk)
                (gradient[chunk],) = torch.autograd.grad(value, part)
            total += value.detach()
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # of the sum: what stands behind it is one number
        return grad.to(gradient.dtype) * gradient, None, None
