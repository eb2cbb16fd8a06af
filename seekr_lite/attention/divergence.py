"""How far two attention maps are apart, from queries and keys, without ever keeping a map.

Maps are made in chunks of query rows and thrown away. The gradient is taken along with the value, while the maps are
there: what is kept for the backward pass is a gradient the size of the queries and keys. Legend: p pairs of (sample,
head), m compared query rows, n tokens, d size of a head. Scores are at least fp32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch

OFFICIAL_EPSILON = 1e-8  # of the official SEEKR code: KL(P_t || P_s + 1e-8)
CHUNK_ROWS = 128
HIDE = 1e30  # a score less this much has probability 0 exactly; times any number of tokens it is still finite
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

    @cached_property
    def row_count(self) -> torch.Tensor:
        """`[p, 1]`: how many rows stand there."""
        return self.counted.sum(-1, keepdim=True)

    @property
    def counted(self) -> torch.Tensor:
        """`[p, m]` bool: where a row stands."""
        return self.rows >= 0

    def keys_until(self, last: int, tokens: int) -> int:
        """Keys after this one no row before row `last` can see."""
        return min(last, tokens) if self.consecutive else tokens

    def mask(self, first: int, last: int, keys: int, out: torch.Tensor) -> torch.Tensor:
        """What is added to scores: 0 for keys up to the row's token, inside the window, not padding; `[p, rows, keys]`.

        Elsewhere the distance to the nearest such key, times HIDE: arithmetic of floats is several times quicker on a
        CPU than choosing by a bool, and a row that may see nothing stays finite.
        """
        key = torch.arange(keys, device=out.device, dtype=out.dtype)
        row = self.rows[:, first:last, None].to(out.dtype)  # [p, rows, 1]
        torch.sub(row, key, out=out).clamp_(max=0)
        if self.window is not None:
            out += (key - row + (self.window - 1)).clamp_(max=0)
        out += (key - self.padding[:, None].to(out.dtype)).clamp_(max=0)[:, None]
        return out.mul_(HIDE)


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
    """SEEKR's forgettability: mean over compared query rows and real keys of two maps' squared difference: `[p]`."""
    total = _zeros(shape, query)
    for first, last in row_chunks(query.shape[1], chunk_rows):
        change = attention_maps(query, key, shape, first, last)
        change -= attention_maps(other_query, other_key, shape, first, last)
        total += (change.square_().sum(-1) * shape.counted[:, first:last]).sum(-1)
    real_keys = key.shape[1] - shape.padding
    return total / (shape.counted.sum(-1) * real_keys)


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
        _scores(query_rows, visible_key, mask, out=ratio)
        torch.softmax(ratio, -1, out=student)
        _scores(teacher_query[:, first:last], teacher_key[:, :keys], mask, out=ratio)
        torch.softmax(ratio, -1, out=teacher)
        torch.add(student, max(epsilon, tiny), out=ratio)
        torch.div(teacher, ratio, out=ratio)
        terms = torch.clamp(ratio, min=tiny, out=spare).log_().mul_(teacher)
        total += (terms.sum(-1, keepdim=True) * row_share).sum((1, 2))
        if grad_query is None or grad_key is None:
            continue
        if epsilon == 0:
            scores = student.sub_(teacher)
        else:  # the softmax' Jacobian applied to dKL/dP_s = -ratio
            pull = ratio.mul_(student)
            scores = student.mul_(pull.sum(-1, keepdim=True)).sub_(pull)
        # The shares multiply rows of d numbers here, not rows of n.
        grad_query[:, first:last] = (scores @ visible_key) * (row_share * shape.scale)
        grad_key[:, :keys].baddbmm_(scores.transpose(1, 2), query_rows * row_share)
    return DivergenceAndGradient(total, grad_query, grad_key)


def triton_serves(
    query: torch.Tensor, key: torch.Tensor, teacher_query: torch.Tensor, teacher_key: torch.Tensor, epsilon: float
) -> bool:
    """Whether `divergence_triton.py` takes these: on a GPU, all of one precision that it knows, and it works there."""
    dtypes = {part.dtype for part in (query, key, teacher_query, teacher_key)}
    if not query.is_cuda or dtypes not in ({torch.float32}, {torch.bfloat16}, {torch.float16}):
        return False
    # Before compute capability 8 Triton has no tensor cores for these kernels, and they are slow.
    if find_spec("triton") is None or torch.cuda.get_device_capability(query.device) < (8, 0):
        return False
    from seekr_lite.attention.divergence_triton import works

    return works(query.device, query.dtype, query.shape[-1], epsilon)


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
        parts = query, key, teacher_query, teacher_key
        if triton_serves(*parts, epsilon):
            from seekr_lite.attention import divergence_triton

            result = divergence_triton.divergence_and_gradient(*parts, shape, epsilon, needed)
        else:
            result = divergence_and_gradient(*parts, shape, epsilon, needed, chunk_rows)
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
    return gradient.to(kept_dtype(like))


def kept_dtype(like: torch.Tensor) -> torch.dtype:
    """The inputs' precision, but for float16, whose range gradients before scaling would leave."""
    return torch.float32 if like.dtype == torch.float16 else like.dtype


def attention_maps(query: torch.Tensor, key: torch.Tensor, shape: MapShape, first: int, last: int) -> torch.Tensor:
    """Attention probabilities of some query rows, as far as they see, in at least fp32: `[p, rows, keys]`."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    keys = shape.keys_until(last, key.shape[1])
    scaled_query = query[:, first:last].to(dtype) * shape.scale
    scores = scaled_query.new_empty(len(query), last - first, keys)
    return _scores(scaled_query, key[:, :keys].to(dtype), shape.mask(first, last, keys, scores), scores).softmax(-1)


def _scores(scaled_query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Attention scores of some query rows before the softmax: `[p, rows, keys]`."""
    return torch.baddbmm(mask, scaled_query, key.transpose(1, 2), out=out)


def _zeros(shape: MapShape, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(shape.rows), dtype=torch.promote_types(like.dtype, torch.float32), device=shape.rows.device)


def row_chunks(rows: int, size: int) -> list[tuple[int, int]]:
    """(first, last) of consecutive chunks of at most `size` rows."""
    return [(first, min(first + size, rows)) for first in range(0, rows, size)]
