"""The divergence of two attention maps in Triton, for GPUs: nothing of the size of a map is ever stored.

Tiles of the maps are made in fp32 from queries and keys, used and forgotten, as in flash attention. `_row_kernel` keeps
a block of query rows and goes over the keys: once for the softmax' normalisers, once for the divergence, once for the
queries' gradient. `_key_kernel` keeps a block of keys and goes over the query rows, for the keys' gradient.

With student map S, teacher map T and r = T S / (S + epsilon), a row's gradient by its scores is S sum(r) - r.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
import triton
import triton.language as tl

from seekr_lite.attention import divergence_torch as plain
from seekr_lite.attention.divergence_torch import DivergenceAndGradient
from seekr_lite.attention.maps import MapShape

LOWEST = tl.constexpr(-1e38)  # finite, so that a row without keys yet gives no inf - inf
LIFT = tl.constexpr(4096.0)  # what score gradients, at most 2, are multiplied with: it keeps them inside fp16's range


@triton.jit
def _part(matrix, index, count, size, width: tl.constexpr):
    """Rows `index` of a `[count, size]` matrix, zeros past its ends: `[index, width]`."""
    column = tl.arange(0, width)
    inside = (index < count)[:, None] & (column < size)[None, :]
    return tl.load(matrix + index[:, None] * size + column[None, :], mask=inside, other=0.0)


@triton.jit
def _seen(row, key, padding, window):
    """Where `MapShape.mask` is 0; NO_ROW sees nothing. Keys past the end come after every row."""
    return (key <= row) & (key >= padding) & (key > row - window)


@triton.jit
def _scores(left, right, seen, scale):
    """`[left, right]` fp32, minus infinity where nothing is seen."""
    return tl.where(seen, tl.dot(left, tl.trans(right), input_precision="ieee") * scale, float("-inf"))


@triton.jit
def _grow(top, total, scores):
    """Takes a tile into the running maximum and the running sum of exp(scores - maximum) of its rows."""
    new_top = tl.maximum(top, tl.max(scores, 1))
    return new_top, total * tl.exp(top - new_top) + tl.sum(tl.exp(scores - new_top[:, None]), 1)


@triton.jit
def _pull(student, teacher, epsilon, exact: tl.constexpr):
    """r of the module's head. At epsilon 0 it is the teacher map, also where the student's entry is 0."""
    return teacher if exact else teacher * (student / (student + epsilon))


@triton.jit
def _add_product(total, weights, part):
    """total + weights @ part in about fp32. 16-bit tensor cores take fp32 weights as a high and a low half."""
    if part.dtype == tl.float32:
        total = tl.dot(weights, part, total, input_precision="ieee")
    else:
        high = weights.to(part.dtype)
        total = tl.dot(high, part, total)
        total = tl.dot((weights - high.to(tl.float32)).to(part.dtype), part, total)
    return total


@triton.jit(do_not_specialize=["m", "n", "window"])
def _row_kernel(
    query,  # [p, m, d]
    key,  # [p, n, d]
    teacher_query,  # [p, m, d]
    teacher_key,  # [p, n, d]
    rows,  # [p, m]
    padding,  # [p]
    share,  # [p]; 1 / number of rows
    divergence,  # [p, m], out: of each row
    norm,  # [p, m], out: log-sum-exp of the student's scores
    teacher_norm,  # [p, m], out
    pulled,  # [p, m], out: sum(r)
    grad_query,  # [p, m, d], out
    m,
    n,
    d,
    window,
    scale,
    epsilon,
    exact: tl.constexpr,
    with_gradient: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    width: tl.constexpr,
):
    blocks = tl.cdiv(m, block_rows)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    place = (tl.program_id(0) % blocks) * block_rows + tl.arange(0, block_rows)
    key += pair * n * d
    teacher_key += pair * n * d
    row = tl.load(rows + pair * m + place, mask=place < m, other=-1).to(tl.int32)
    pad = tl.load(padding + pair).to(tl.int32)
    student_query = _part(query + pair * m * d, place, m, d, width)
    other_query = _part(teacher_query + pair * m * d, place, m, d, width)
    # Keys that some row of the block sees.
    start = tl.maximum(pad, tl.min(tl.where(row < 0, n, row)) - window + 1)
    end = tl.max(row) + 1

    top = tl.full([block_rows], LOWEST, tl.float32)
    total = tl.zeros([block_rows], tl.float32)
    other_top = tl.full([block_rows], LOWEST, tl.float32)
    other_total = tl.zeros([block_rows], tl.float32)
    # First pass: the normalisers of both softmaxes. Without them no probability is known, and a KL cannot be summed up
    # tile by tile under a maximum that still grows.
    for first in range(start, end, block_keys):
        index = first + tl.arange(0, block_keys)
        seen = _seen(row[:, None], index[None, :], pad, window)
        top, total = _grow(top, total, _scores(student_query, _part(key, index, n, d, width), seen, scale))
        other = _scores(other_query, _part(teacher_key, index, n, d, width), seen, scale)
        other_top, other_total = _grow(other_top, other_total, other)
    # Of a row that sees nothing all is 0: exp(-inf - 0).
    student_norm = tl.where(total > 0, top + tl.log(total), 0.0)
    other_norm = tl.where(other_total > 0, other_top + tl.log(other_total), 0.0)

    # Second pass: the divergence, and sum(r), which every score's gradient needs before the first of them is made.
    value = tl.zeros([block_rows], tl.float32)
    pull = tl.zeros([block_rows], tl.float32)
    for first in range(start, end, block_keys):
        index = first + tl.arange(0, block_keys)
        seen = _seen(row[:, None], index[None, :], pad, window)
        student_log = _scores(student_query, _part(key, index, n, d, width), seen, scale) - student_norm[:, None]
        teacher_log = _scores(other_query, _part(teacher_key, index, n, d, width), seen, scale) - other_norm[:, None]
        student = tl.exp(student_log)
        teacher = tl.exp(teacher_log)
        pull += tl.sum(_pull(student, teacher, epsilon, exact), 1)
        if not exact:
            student_log = tl.log(student + epsilon)
        # S - T sums to 0 over a row, but for the rounding of the norms, which it takes out of the sum (to first order).
        value += tl.sum(tl.where(seen, teacher * (teacher_log - student_log) + (student - teacher), 0.0), 1)
    tl.store(divergence + pair * m + place, value, mask=place < m)

    if with_gradient:
        tl.store(norm + pair * m + place, student_norm, mask=place < m)
        tl.store(teacher_norm + pair * m + place, other_norm, mask=place < m)
        tl.store(pulled + pair * m + place, pull, mask=place < m)
        # Third pass: scores are made again rather than kept, since a map is what must never be stored.
        gradient = tl.zeros([block_rows, width], tl.float32)
        for first in range(start, end, block_keys):
            index = first + tl.arange(0, block_keys)
            seen = _seen(row[:, None], index[None, :], pad, window)
            student_key = _part(key, index, n, d, width)
            student = tl.exp(_scores(student_query, student_key, seen, scale) - student_norm[:, None])
            other = _scores(other_query, _part(teacher_key, index, n, d, width), seen, scale)
            teacher = tl.exp(other - other_norm[:, None])
            by_score = student * pull[:, None] - _pull(student, teacher, epsilon, exact)
            gradient = _add_product(gradient, by_score * LIFT, student_key)
        column = tl.arange(0, width)
        out = grad_query + pair * m * d + place[:, None] * d + column[None, :]
        inside = (place < m)[:, None] & (column < d)[None, :]
        tl.store(out, gradient * (tl.load(share + pair) * scale / LIFT), mask=inside)


@triton.jit(do_not_specialize=["m", "n", "window"])
def _key_kernel(
    query,  # [p, m, d]
    key,  # [p, n, d]
    teacher_query,  # [p, m, d]
    teacher_key,  # [p, n, d]
    rows,  # [p, m]
    padding,  # [p]
    share,  # [p]
    norm,  # [p, m]
    teacher_norm,  # [p, m]
    pulled,  # [p, m]
    grad_key,  # [p, n, d], out
    m,
    n,
    d,
    window,
    scale,
    epsilon,
    exact: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    width: tl.constexpr,
):
    blocks = tl.cdiv(n, block_keys)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    first = (tl.program_id(0) % blocks) * block_keys
    index = first + tl.arange(0, block_keys)
    query += pair * m * d
    teacher_query += pair * m * d
    rows += pair * m
    norm += pair * m
    teacher_norm += pair * m
    pulled += pair * m
    pad = tl.load(padding + pair).to(tl.int32)
    student_key = _part(key + pair * n * d, index, n, d, width)
    other_key = _part(teacher_key + pair * n * d, index, n, d, width)
    # Rows that see some key of the block; nothing is taken for granted about where NO_ROW stands.
    lowest = tl.maximum(first, pad)
    last = first + block_keys - 1
    start = m
    end = 0
    for before in range(0, m, 256):
        place = before + tl.arange(0, 256)
        row = tl.load(rows + place, mask=place < m, other=-1).to(tl.int32)
        sees = (row >= lowest) & (row - window < last) & (lowest <= last)
        start = tl.minimum(start, tl.min(tl.where(sees, place, m)))
        end = tl.maximum(end, tl.max(tl.where(sees, place + 1, 0)))

    # A block of keys collects from all rows that see it, in one program: no atomics, so the sum has one order, and the
    # same seed gives the same gradient.
    gradient = tl.zeros([block_keys, width], tl.float32)
    for before in range(start, end, block_rows):
        place = before + tl.arange(0, block_rows)
        row = tl.load(rows + place, mask=place < m, other=-1).to(tl.int32)
        seen = _seen(row[None, :], index[:, None], pad, window)
        student_query = _part(query, place, m, d, width)
        student_norm = tl.load(norm + place, mask=place < m, other=0.0)
        student = tl.exp(_scores(student_key, student_query, seen, scale) - student_norm[None, :])
        other = _scores(other_key, _part(teacher_query, place, m, d, width), seen, scale)
        teacher = tl.exp(other - tl.load(teacher_norm + place, mask=place < m, other=0.0)[None, :])
        pull = tl.load(pulled + place, mask=place < m, other=0.0)
        by_score = student * pull[None, :] - _pull(student, teacher, epsilon, exact)
        gradient = _add_product(gradient, by_score * LIFT, student_query)
    column = tl.arange(0, width)
    out = grad_key + pair * n * d + index[:, None] * d + column[None, :]
    inside = (index < n)[:, None] & (column < d)[None, :]
    tl.store(out, gradient * (tl.load(share + pair) * scale / LIFT), mask=inside)


def divergence_and_gradient(
    query: torch.Tensor,
    key: torch.Tensor,
    teacher_query: torch.Tensor,
    teacher_key: torch.Tensor,
    shape: MapShape,
    epsilon: float,
    with_gradient: bool,
    tile: tuple[int, int] | None = None,
) -> DivergenceAndGradient:
    """As `divergence.divergence_and_gradient`, for fp32 and 16-bit tensors. tile: see `default_tile`."""
    if not query.numel():
        return plain.divergence_and_gradient(query, key, teacher_query, teacher_key, shape, epsilon, with_gradient)
    parts = tuple(part.contiguous() for part in (query, key, teacher_query, teacher_key))
    pairs, m, d = query.shape
    n = key.shape[1]
    width = max(16, triton.next_power_of_2(d))
    kept, passing = tile or default_tile(width, query.dtype)
    rows, padding = shape.rows.contiguous(), shape.padding.contiguous()
    share = shape.row_count.reciprocal().squeeze(-1)  # [p]
    value, *of_rows = (query.new_empty((pairs, m), dtype=torch.float32) for _ in range(4))
    kept_as = plain.kept_dtype(query)
    grad_query = query.new_empty(query.shape, dtype=kept_as) if with_gradient else None
    grad_key = query.new_empty(key.shape, dtype=kept_as) if with_gradient else None
    window = n if shape.window is None else min(shape.window, n)
    inputs = *parts, rows, padding, share
    numbers = m, n, d, window, shape.scale, epsilon, epsilon == 0
    build = {"width": width, "num_warps": 4, "num_stages": 2}
    with torch.cuda.device_of(query):
        grid = (pairs * triton.cdiv(m, kept),)
        build |= {"block_rows": kept, "block_keys": passing}
        _row_kernel[grid](*inputs, value, *of_rows, grad_query, *numbers, with_gradient=with_gradient, **build)
        if with_gradient:
            grid = (pairs * triton.cdiv(n, kept),)
            build |= {"block_rows": passing, "block_keys": kept}
            _key_kernel[grid](*inputs, *of_rows, grad_key, *numbers, **build)
    return DivergenceAndGradient(value.sum(-1) * share, grad_query, grad_key)


def default_tile(width: int, dtype: torch.dtype) -> tuple[int, int]:
    """How many rows (or keys) a program keeps, and how many keys (or rows) pass by at a time.

    Compiled for sm_86, 89, 90 and 120, up to width 256, this takes at most 70 KB of shared memory, no spills.
    """
    if dtype != torch.float32 and width <= 128:
        return 64, 32
    return (32, 32) if width * dtype.itemsize <= 512 else (16, 16)


@lru_cache
def works(device: torch.device, dtype: torch.dtype, size: int, epsilon: float) -> bool:
    """Whether the kernels run on this device and say what the plain version says; tried once on a small problem."""
    # Silent wrong numbers are worse than no kernel: compilers and cards differ, so it has to agree once where it runs.
    generator = torch.Generator().manual_seed(0)
    query, key, other_query, other_key = torch.randn(4, 2, 70, size, generator=generator).to(device, dtype)
    shape = MapShape.of_all_rows(torch.tensor([0, 5], device=device), 70, size**-0.5)
    problem = query, key, other_query, other_key, shape, epsilon, True
    try:
        actual, expected = divergence_and_gradient(*problem), plain.divergence_and_gradient(*problem)
        pairs = zip(vars(actual).values(), vars(expected).values(), strict=True)
        if all((one - other).norm() <= 0.01 * other.norm() for one, other in pairs):
            return True
        reason = "wrong results"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, a driver or a card may say
        first_line = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {first_line}"
    logging.getLogger(__name__).warning("attention maps are compared without Triton, at more memory (%s)", reason)
    return False
