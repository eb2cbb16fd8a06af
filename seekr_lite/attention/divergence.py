"""How far two attention maps are apart, from queries and keys, without ever keeping a map.

Maps are made in chunks of query rows and thrown away. The gradient is taken along with the value, while the maps are
there: what is kept for the backward pass is a gradient the size of the queries and keys. Legend: p pairs of (sample,
head), m compared query rows, n tokens, d size of a head. Scores are at least fp32.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from seekr_lite.attention.divergence_torch import divergence_and_gradient, kept_dtype
from seekr_lite.attention.maps import CHUNK_ROWS, MapShape

OFFICIAL_EPSILON = 1e-8  # of the official SEEKR code, which adds it to the student alone: KL(P_t || P_s + 1e-8)


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
            kept = kept_dtype(query)
            ctx.save_for_backward(result.grad_query.to(kept), result.grad_key.to(kept))
            ctx.dtype = query.dtype
        return result.value

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Each pair's value depends on its own queries and keys alone, so its gradient is scaled by one number.
        grad_query, grad_key = ctx.saved_tensors
        share = grad[:, None, None]
        return (share * grad_query).to(ctx.dtype), (share * grad_key).to(ctx.dtype), None, None, None, None, None
