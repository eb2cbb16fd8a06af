"""Queries and keys of chosen heads, recorded while the model runs.

Legend: b batch, h query heads, g key heads, n tokens, m query rows, d size of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from seekr_lite.attention.maps import MapShape
from seekr_lite.attention.tap import AttentionCall


@dataclass(frozen=True)
class HeadPairs:
    """Which heads of which batch rows: pair p is head `heads[p]` of row `rows[p]`; both `[pairs]`.

    queries: `[pairs, m]`, the positions of the query rows that are wanted of each pair (negative: none stands
    there); None: all n. No pair is there twice.
    """

    rows: torch.Tensor
    heads: torch.Tensor
    queries: torch.Tensor | None = None

    def to(self, device: torch.device) -> HeadPairs:
        queries = None if self.queries is None else self.queries.to(device)
        return HeadPairs(self.rows.to(device), self.heads.to(device), queries)

    def subset(self, rows: torch.Tensor) -> tuple[torch.Tensor, HeadPairs]:
        """The pairs of some batch rows (ascending), renumbered as rows of that smaller batch; and where they stand
        among all pairs."""
        places = torch.isin(self.rows, rows).nonzero()[:, 0]
        queries = None if self.queries is None else self.queries[places]
        return places, HeadPairs(torch.searchsorted(rows, self.rows[places]), self.heads[places], queries)


def all_heads(batch: int, heads: int, device: torch.device, queries: torch.Tensor | None = None) -> HeadPairs:
    """Every head of every row, row by row: pair p is head p % heads of row p // heads. queries `[b, m]`."""
    index = torch.arange(batch * heads, device=device)
    wanted = None if queries is None else queries.repeat_interleave(heads, dim=0)
    return HeadPairs(index // heads, index % heads, wanted)


@dataclass(frozen=True)
class RecordedHeads:
    """query `[pairs, m, d]` and key `[pairs, n, d]` of a layer's chosen heads."""

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    window: int | None

    def map_shape(self, padding: torch.Tensor, queries: torch.Tensor | None = None) -> MapShape:
        """What of these heads' maps counts. padding: `[pairs]`; queries: as in `HeadPairs`."""
        if queries is None:
            return MapShape.of_all_rows(padding, self.key.shape[1], self.scale, self.window)
        return MapShape(padding, queries, self.scale, self.window)


class HeadRecorder:
    """Keeps the queries and keys of chosen heads by layer, once: what is recomputed later is not kept again."""

    def __init__(self, pairs: Mapping[int, HeadPairs]) -> None:
        self.pairs = pairs
        self.layers: dict[int, RecordedHeads] = {}

    def record(self, call: AttentionCall) -> None:
        if call.layer in self.pairs:
            # Selected in the recomputation too: checkpointing compares what both passes save.
            recorded = select_heads(call, self.pairs[call.layer])
            self.layers.setdefault(call.layer, recorded)


class RowsRecorder:
    """A `HeadRecorder` for some rows of a batch that pass by themselves, without gradients.

    What it keeps lands in the places of the whole batch's pairs, so that a batch whose rows pass through several models
    is recorded as if it had passed at once.

    Args:
        whole: layer -> heads of the whole batch, as far as recorded; all its parts write into it.
        pairs: layer -> pairs of the whole batch, on the host.
        rows: which rows of the batch pass, ascending, on the host.
    """

    def __init__(
        self,
        whole: dict[int, RecordedHeads],
        pairs: Mapping[int, HeadPairs],
        rows: torch.Tensor,
        device: torch.device,
    ) -> None:
        self.whole, self.pairs = whole, pairs
        # All at once: a copy between two layers would let the host wait for the GPU.
        parts = {layer: all_pairs.subset(rows) for layer, all_pairs in pairs.items()}
        self.parts = {layer: (places.to(device), part.to(device)) for layer, (places, part) in parts.items()}

    def record(self, call: AttentionCall) -> None:
        if call.layer not in self.parts:
            return
        places, pairs = self.parts[call.layer]
        part = select_heads(call, pairs)
        if call.layer not in self.whole:
            query, key = (
                states.new_empty(len(self.pairs[call.layer].rows), *states.shape[1:])
                for states in (part.query, part.key)
            )
            self.whole[call.layer] = RecordedHeads(query, key, part.scale, part.window)
        self.whole[call.layer].query[places] = part.query
        self.whole[call.layer].key[places] = part.key


def select_heads(call: AttentionCall, pairs: HeadPairs) -> RecordedHeads:
    """query head h reads key head h // group (grouped-query attention)."""
    group = call.query.shape[1] // call.key.shape[1]
    key_heads = pairs.heads // group
    # Several queries may read one key, whose gradients add up: torch's own indexing does that.
    key = (
        _take_heads(call.key, pairs.rows, key_heads) if group == 1 else call.key[pairs.rows, key_heads]
    )  # [pairs, n, d]
    if pairs.queries is None:
        query = _take_heads(call.query, pairs.rows, pairs.heads)  # [pairs, n, d]
    else:
        query = call.query[pairs.rows[:, None], pairs.heads[:, None], pairs.queries.clamp(min=0)]  # [pairs, m, d]
    return RecordedHeads(query, key, call.scale, call.window)


def _take_heads(states: torch.Tensor, rows: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    taken: torch.Tensor = _TakeHeads.apply(states, rows, heads)
    return taken


class _TakeHeads(torch.autograd.Function):
    """`states[rows, heads]`, `[b, h, n, d]` -> `[pairs, n, d]`, of pairs that are all different.

    The gradient is written once. torch's own would add up what may meet in one place, which a GPU sorts for.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, rows: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(rows, heads)
        ctx.shape = states.shape
        return states[rows, heads]

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        rows, heads = ctx.saved_tensors
        whole = grad.new_zeros(ctx.shape)
        whole[rows, heads] = grad
        return whole, None, None
