"""How far two attention maps are apart, from queries and keys, without ever keeping a map.

Maps are made in chunks of query rows and thrown away. The gradient is taken along with the value, while the maps are
there: what is kept for the backward pass is a gradient the size of the queries and keys. Legend: p pairs of (sample,
head), m compared query rows, n tokens, d size of a head. Scores are at least fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

OFFICIAL_EPSILON = 1e-8  # of the official SEEKR code: KL(P_t || P_s + 1e-8)
CHUNK_ROWS = 128
NO_ROW = -1  # in MapShape.rows: no query row stands here


@dataclass(frozen=True)
class MapShape:
    """What of the maps counts.

    padding: `[p]`, pad tokens on the left. rows: `[p, m]`, where the compared query rows stand among the n tokens,
    ascending; NO_ROW fills up what is padding or shorter. consecutive: rows are 0..n-1, but for NO_ROW.
    """

    padding: torch.Tensor
    rows: torch.Tensor
    scale: float
    window: int | None = None
    consecutive: bool = False

    @classmethod
    def of_all_rows(cls, padding: torch.Tensor, tokens: int, scale: float, window: int | None = None) -> MapShape:
        """Every real token's row is compared."""
        return cls(padding, all_rows(padding, tokens), scale, window, consecutive=True)

    @property
    def counted(self) -> torch.Tensor:
        """`[p, m]` bool: where a row stands."""
        return self.rows >= 0

    def keys_until(self, last: int, tokens: int) -> int:
        """Keys after this one no row before row `last` can see."""
        return min(last, tokens) if self.consecutive else tokens

    def allowed(self, first: int, last: int, keys: int) -> torch.Tensor:
        """`[p, rows, keys]`: causal, inside the window, not padding. No row sees key 0 only, to stay finite."""
        key = torch.arange(keys, device=self.rows.device)
        row = self.rows[:, first:last, None]  # [p, rows, 1]
        seen = (key <= row) & (key >= self.padding[:, None, None])
        if self.window is not None:
            seen = seen & (key > row - self.window)
        return seen | ((row < 0) & (key == 0))


def all_rows(padding: torch.Tensor, tokens: int) -> torch.Tensor:
    """`[p, n]`: the positions of all real rows, NO_ROW for padding."""
    rows = torch.arange(tokens, device=padding.device).expand(len(padding), tokens)
    return rows.masked_fill(rows < padding[:, None], NO_ROW)


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

    Queries `[p, m, d]`, keys `[p, n, d]`. Gradients reach the student's query and key only. At epsilon 0 it is never
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
    for first, last in row_chunks(query.shape[1], chunk_rows):
        change = attention_maps(query, key, shape, first, last) - attention_maps(
            other_query, other_key, shape, first, last
        )
        total += (change.square().sum(-1) * shape.counted[:, first:last]).sum(-1)
    keys = key.shape[1] - shape.padding
    return total / (shape.counted.sum(-1) * keys)


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
    total = _zeros(shape, query)
    share = shape.counted / shape.counted.sum(-1, keepdim=True)  # [p, m]; a row's share in the mean
    grad_query = torch.zeros_like(query, dtype=total.dtype) if with_gradient else None
    grad_key = torch.zeros_like(key, dtype=total.dtype) if with_gradient else None
    for first, last in row_chunks(query.shape[1], chunk_rows):
        student = attention_maps(query, key, shape, first, last)  # [p, rows, keys]
        teacher = attention_maps(teacher_query, teacher_key, shape, first, last)
        row_share = share[:, first:last].to(total.dtype)
        # xlogy: a masked entry has teacher 0 and adds 0, whatever the logarithm says.
        row = (torch.xlogy(teacher, teacher) - torch.xlogy(teacher, student + epsilon)).sum(-1)
        total += (row * row_share).sum(-1)
        if grad_query is None or grad_key is None:
            continue
        if epsilon == 0:
            scores = student - teacher
        else:  # the softmax' Jacobian applied to dKL/dP_s = -P_t / (P_s + epsilon)
            scores = student * teacher / -(student + epsilon)
            scores -= student * scores.sum(-1, keepdim=True)
        scores *= (row_share * shape.scale)[..., None]  # [p, rows, keys]
        keys = scores.shape[-1]
        grad_query[:, first:last] = scores @ key[:, :keys].to(scores.dtype)
        grad_key[:, :keys] += scores.transpose(1, 2) @ query[:, first:last].to(scores.dtype)
    return DivergenceAndGradient(total, grad_query, grad_key)


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
        needed = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        result = divergence_and_gradient(query, key, teacher_query, teacher_key, shape, epsilon, needed, chunk_rows)
        if result.grad_query is not None and result.grad_key is not None:
            ctx.save_for_backward(_kept(result.grad_query, query), _kept(result.grad_key, key))
            ctx.dtype = query.dtype
        return result.value

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_query, grad_key = ctx.saved_tensors
        share = grad[:, None, None]
        return (share * grad_query).to(ctx.dtype), (share * grad_key).to(ctx.dtype), None, None, None, None, None


def _kept(gradient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """In the inputs' precision, but for float16, whose range gradients before scaling would leave."""
    return gradient if like.dtype == torch.float16 else gradient.to(like.dtype)


def attention_maps(query: torch.Tensor, key: torch.Tensor, shape: MapShape, first: int, last: int) -> torch.Tensor:
    """Attention probabilities of some query rows, as far as they see: `[p, rows, keys]`."""
    precision = torch.promote_types(query.dtype, torch.float32)
    keys = shape.keys_until(last, key.shape[1])
    scores = query[:, first:last].to(precision) @ key[:, :keys].to(precision).transpose(1, 2) * shape.scale
    return scores.masked_fill(~shape.allowed(first, last, keys), -torch.inf).softmax(-1)


def _zeros(shape: MapShape, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(shape.rows), dtype=torch.promote_types(like.dtype, torch.float32), device=shape.rows.device)


def row_chunks(rows: int, size: int) -> list[tuple[int, int]]:
    """(first, last) of consecutive chunks of at most `size` rows."""
    return [(first, min(first + size, rows)) for first in range(0, rows, size)]
