"""How far two attention maps are apart, from queries and keys, without ever keeping a map.

Maps are made in chunks of query rows and thrown away; the backward pass makes them again. Legend: p pairs of
(sample, head), n tokens, d size of a head. Scores are at least fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

OFFICIAL_EPSILON = 1e-8  # of the official SEEKR code: KL(P_t || P_s + 1e-8)
CHUNK_ROWS = 128


@dataclass(frozen=True)
class MapShape:
    """What of a map counts.

    padding: `[p]`, pad tokens on the left. rows: `[p, n]` bool, the query rows that are compared (real tokens only).
    """

    padding: torch.Tensor
    rows: torch.Tensor
    scale: float
    window: int | None = None

    def allowed(self, first: int, last: int) -> torch.Tensor:
        """`[p, rows, n]`: causal, inside the window, not padding; a padded query sees itself, to stay finite."""
        tokens = self.rows.shape[1]
        key = torch.arange(tokens, device=self.rows.device)
        query = key[first:last, None]
        causal = key <= query
        if self.window is not None:
            causal = causal & (key > query - self.window)
        real = key >= self.padding[:, None, None]
        return (causal & real) | (key == query)


def real_rows(padding: torch.Tensor, tokens: int) -> torch.Tensor:
    """`[p, n]` bool: the rows that are no padding."""
    return torch.arange(tokens, device=padding.device) >= padding[:, None]


def attention_divergence(
    query: torch.Tensor,
    key: torch.Tensor,
    teacher_query: torch.Tensor,
    teacher_key: torch.Tensor,
    shape: MapShape,
    epsilon: float = OFFICIAL_EPSILON,
    chunk_rows: int = CHUNK_ROWS,
) -> torch.Tensor:
    """Mean over the compared query rows of KL(teacher row, student row + epsilon): `[p]` (SEEKR, eq. 3).

    All of query, key `[p, n, d]`. Gradients reach the student's query and key only. At epsilon 0 it is never
    negative and zero for equal maps; otherwise it is at least -n epsilon.
    """
    result: torch.Tensor = _Divergence.apply(
        query, key, teacher_query.detach(), teacher_key.detach(), shape, epsilon, chunk_rows
    )
    return result


def map_change(
    query: torch.Tensor,
    key: torch.Tensor,
    other_query: torch.Tensor,
    other_key: torch.Tensor,
    shape: MapShape,
    chunk_rows: int = CHUNK_ROWS,
) -> torch.Tensor:
    """Mean over compared query rows and real keys of the squared difference of two maps: `[p]` (SEEKR, eq. 6)."""
    total = _zeros(shape, query)
    for first, last in _chunks(query.shape[1], chunk_rows):
        change = _maps(query, key, shape, first, last) - _maps(other_query, other_key, shape, first, last)
        total += (change.square().sum(-1) * shape.rows[:, first:last]).sum(-1)
    keys = query.shape[1] - shape.padding
    return total / (shape.rows.sum(-1) * keys)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        teacher_query: torch.Tensor,
        teacher_key: torch.Tensor,
        shape: MapShape,
        epsilon: float,
        chunk_rows: int,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, teacher_query, teacher_key)
        ctx.shape, ctx.epsilon, ctx.chunk_rows = shape, epsilon, chunk_rows
        total = _zeros(shape, query)
        for first, last in _chunks(query.shape[1], chunk_rows):
            student = _maps(query, key, shape, first, last)
            teacher = _maps(teacher_query, teacher_key, shape, first, last)
            # xlogy: a masked entry has teacher 0 and adds 0, whatever the logarithm says.
            row = (torch.xlogy(teacher, teacher) - torch.xlogy(teacher, student + epsilon)).sum(-1)
            total += torch.where(shape.rows[:, first:last], row, 0.0).sum(-1)
        return total / shape.rows.sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        query, key, teacher_query, teacher_key = ctx.saved_tensors
        shape: MapShape = ctx.shape
        weight = (grad / shape.rows.sum(-1))[:, None] * shape.rows  # [p, n]
        grad_query = torch.zeros_like(query, dtype=grad.dtype)
        grad_key = torch.zeros_like(key, dtype=grad.dtype)
        for first, last in _chunks(query.shape[1], ctx.chunk_rows):
            student = _maps(query, key, shape, first, last)
            teacher = _maps(teacher_query, teacher_key, shape, first, last)
            if ctx.epsilon == 0:
                scores = student - teacher
            else:  # the softmax' Jacobian applied to dKL/dP_s = -P_t / (P_s + epsilon)
                ratio = -teacher / (student + ctx.epsilon)
                scores = student * (ratio - (ratio * student).sum(-1, keepdim=True))
            scores = scores * (weight[:, first:last, None] * shape.scale)  # [p, rows, n]
            grad_query[:, first:last] = scores @ key.to(scores.dtype)
            grad_key += scores.transpose(1, 2) @ query[:, first:last].to(scores.dtype)
        return grad_query.to(query.dtype), grad_key.to(key.dtype), None, None, None, None, None


def _maps(query: torch.Tensor, key: torch.Tensor, shape: MapShape, first: int, last: int) -> torch.Tensor:
    """Attention probabilities of some query rows: `[p, rows, n]`."""
    precision = torch.promote_types(query.dtype, torch.float32)
    scores = query[:, first:last].to(precision) @ key.to(precision).transpose(1, 2) * shape.scale
    return scores.masked_fill(~shape.allowed(first, last), -torch.inf).softmax(-1)


def _zeros(shape: MapShape, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(shape.rows), dtype=torch.promote_types(like.dtype, torch.float32), device=shape.rows.device)


def _chunks(tokens: int, rows: int) -> list[tuple[int, int]]:
    return [(first, min(first + rows, tokens)) for first in range(0, tokens, rows)]
