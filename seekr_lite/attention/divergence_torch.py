"""The divergence of two attention maps and its gradient, in plain torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from seekr_lite.attention.maps import CHUNK_ROWS, MapShape, masked_scores, row_chunks


@dataclass(frozen=True)
class DivergenceAndGradient:
    """value `[p]`; grad_query `[p, m, d]` and grad_key `[p, n, d]` of each pair's own value, or None."""

    value: torch.Tensor
    grad_query: torch.Tensor | None
    grad_key: torch.Tensor | None


def divergence_and_gradient(
    query: torch.Tensor,
    key: torch.Tensor,
    teacher_query: torch.Tensor,
    teacher_key: torch.Tensor,
    shape: MapShape,
    epsilon: float,
    with_gradient: bool,
    chunk_rows: int = CHUNK_ROWS,
) -> DivergenceAndGradient:
    """The divergence in plain torch, chunk by chunk of query rows. `divergence_triton.py` has the same for GPUs."""
    # fp32 at least: in 16 bits a probability that is nearly 0 or 1 would round to it, and its logarithm with it.
    total = query.new_zeros(len(query), dtype=torch.promote_types(query.dtype, torch.float32))
    share = shape.counted.to(total.dtype) / shape.row_count  # [p, m]; a row's share in the mean
    query, teacher_query = (part.to(total.dtype) * shape.scale for part in (query, teacher_query))
    key, teacher_key = key.to(total.dtype), teacher_key.to(total.dtype)
    grad_query = torch.zeros_like(query) if with_gradient else None
    grad_key = torch.zeros_like(key) if with_gradient else None
    tiny = torch.finfo(total.dtype).tiny  # keeps 0 / 0 and log 0 of masked entries finite; they add 0
    chunks = row_chunks(query.shape[1], chunk_rows)
    # Every chunk's maps `[p, rows, keys]` lie in the same memory: fresh pages cost a CPU as much as the arithmetic.
    memory = query.new_empty(4, len(query) * min(chunk_rows, query.shape[1]) * key.shape[1])
    for first, last in chunks:
        keys = shape.keys_until(last, key.shape[1])
        size = len(query), last - first, keys
        student, teacher, ratio, spare = (part[: math.prod(size)].view(size) for part in memory)
        query_rows, visible_key = query[:, first:last], key[:, :keys]
        row_share = share[:, first:last, None]
        mask = shape.mask(first, last, keys, out=spare)
        masked_scores(query_rows, visible_key, mask, out=ratio)
        torch.softmax(ratio, -1, out=student)
        masked_scores(teacher_query[:, first:last], teacher_key[:, :keys], mask, out=ratio)
        torch.softmax(ratio, -1, out=teacher)
        torch.add(student, max(epsilon, tiny), out=ratio)
        torch.div(teacher, ratio, out=ratio)
        # KL as sum of T log(T / S): what the teacher does not look at (T = 0) adds 0, wherever the student looks.
        terms = torch.clamp(ratio, min=tiny, out=spare).log_().mul_(teacher)
        total += (terms.sum(-1, keepdim=True) * row_share).sum((1, 2))
        if grad_query is None or grad_key is None:
            continue
        # Taken now, while the maps are there: the backward pass would have to keep them, or make them again.
        if epsilon == 0:  # T S / (S + epsilon) is T then, also where S is 0
            scores = student.sub_(teacher)
        else:  # the softmax' Jacobian applied to dKL/dP_s = -ratio
            pull = ratio.mul_(student)
            scores = student.mul_(pull.sum(-1, keepdim=True)).sub_(pull)
        # The shares multiply rows of d numbers here, not rows of n.
        grad_query[:, first:last] = (scores @ visible_key) * (row_share * shape.scale)
        grad_key[:, :keys].baddbmm_(scores.transpose(1, 2), query_rows * row_share)
    return DivergenceAndGradient(total, grad_query, grad_key)


def kept_dtype(like: torch.Tensor) -> torch.dtype:
    """The inputs' precision, but for float16, whose range gradients before scaling would leave."""
    return torch.float32 if like.dtype == torch.float16 else like.dtype
