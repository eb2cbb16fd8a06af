"""The tap: queries, keys and values of chosen heads, from any decoder that uses transformers' attention interface.

One attention function is registered beside the ordinary one. It calls the ordinary kernel for the output and hands
what it was called with to a recorder, if the forward call brought one along: `model(..., attention_recorder=recorder)`.
No forward is replaced, no attention map is made, and nothing is global but the name of the function.

Legend: b batch, h query heads, g key heads, n tokens, d size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from seekr_lite.errors import UserError

TAPPED_SDPA = "seekr_lite_sdpa"


@dataclass(frozen=True)
class AttentionCall:
    """One layer's attention, as it was called.

    query `[b, h, n, d]` and key, value `[b, g, n, d]` after position embedding; output `[b, n, h, d]` before the
    output projection; `window` is the number of keys a query sees (None: all before it).
    """

    layer: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor
    scale: float
    window: int | None


class Recorder(Protocol):
    """What listens to attention. Gradient checkpointing calls twice for a layer: record by layer, never append."""

    def record(self, call: AttentionCall) -> None: ...


def tapped_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    attention_recorder: Recorder | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' sdpa attention, with a recorder listening."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if options.get("softcap") is not None:
        raise UserError("the attention scores of this model are soft-capped, which sdpa and the tap cannot follow")
    output, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if attention_recorder is not None:
        scale = options.get("scaling")
        attention_recorder.record(
            AttentionCall(
                layer=int(module.layer_idx),  # type: ignore[arg-type]
                query=query,
                key=key,
                value=value,
                output=output,
                scale=query.shape[-1] ** -0.5 if scale is None else float(scale),
                window=options.get("sliding_window"),
            )
        )
    return output, weights


@contextmanager
def tap(model: Any) -> Iterator[None]:
    """Attention goes through the tap inside the block; the model's own implementation is restored afterwards.

    The block must enclose `backward()`: checkpointed layers run again there.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(TAPPED_SDPA, tapped_sdpa)
    # Without a mask function of the same name the mask would be None, and padded batches silently wrong.
    AttentionMaskInterface.register(TAPPED_SDPA, sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(TAPPED_SDPA)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@dataclass(frozen=True)
class HeadPairs:
    """Which heads of which batch rows: pair p is head `heads[p]` of row `rows[p]`. Both `[pairs]`."""

    rows: torch.Tensor
    heads: torch.Tensor

    def subset(self, rows: torch.Tensor) -> tuple[torch.Tensor, HeadPairs]:
        """The pairs of some batch rows, renumbered as rows of that smaller batch, with the mask `[pairs]` of them."""
        position = torch.full((int(self.rows.max()) + 1 if len(self.rows) else 1,), -1, device=self.rows.device)
        inside = rows[rows < len(position)]
        position[inside] = torch.arange(len(rows), device=rows.device)[rows < len(position)]
        renumbered = position[self.rows]
        mask = renumbered >= 0
        return mask, HeadPairs(renumbered[mask], self.heads[mask])


@dataclass(frozen=True)
class RecordedHeads:
    """query and key `[pairs, n, d]` of a layer's chosen heads."""

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    window: int | None


class HeadRecorder:
    """Keeps the queries and keys of chosen heads by layer, once: what is recomputed later is not kept again."""

    def __init__(self, pairs: dict[int, HeadPairs]) -> None:
        self.pairs = pairs
        self.layers: dict[int, RecordedHeads] = {}

    def record(self, call: AttentionCall) -> None:
        chosen = self.pairs.get(call.layer)
        if chosen is None:
            return
        # Selected in the recomputation too: checkpointing compares what both passes save.
        recorded = select_heads(call, chosen)
        self.layers.setdefault(call.layer, recorded)

    def of(self, layer: int) -> RecordedHeads:
        """Raises `UserError` where the model's attention never came by."""
        if layer not in self.layers:
            raise UserError(
                f"layer {layer} of this model has no attention that goes through transformers' attention interface, "
                "so SEEKR cannot look into it; take another base, or a method without attention (derpp, replay)"
            )
        return self.layers[layer]


def select_heads(call: AttentionCall, pairs: HeadPairs) -> RecordedHeads:
    """query head h reads key head h // group (grouped-query attention)."""
    group = call.query.shape[1] // call.key.shape[1]
    query = call.query[pairs.rows, pairs.heads]  # [pairs, n, d]
    key = call.key[pairs.rows, pairs.heads // group]  # [pairs, n, d]
    return RecordedHeads(query, key, call.scale, call.window)


def all_heads(batch: int, heads: int, device: torch.device) -> HeadPairs:
    """Every head of every row, row by row: pair p is head p % heads of row p // heads."""
    index = torch.arange(batch * heads, device=device)
    return HeadPairs(index // heads, index % heads)
