"""The tap: queries, keys and values of chosen heads, from any decoder that uses transformers' attention interface.

Beside each ordinary attention function (sdpa, flash, flex) stands one of ours. It calls the ordinary kernel for the
output and hands what it was called with to a recorder, if the forward call brought one along:
`model(..., attention_recorder=recorder)`. No forward is replaced, no attention map is made, and nothing is global but
the names of the functions. Which models can be tapped is checked in `tappable.py`.

Legend: b batch, h query heads, g key heads, n tokens, m query rows, d size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from seekr_lite.common.errors import UserError

# transformers' name of an attention implementation -> the name of ours beside it. ("flash" in a name makes
# transformers look for a kernel of that name, so ours does not have it.)
TAPPED = {
    "sdpa": "seekr_lite_sdpa",
    "flash_attention_2": "seekr_lite_fa2",
    "flash_attention_3": "seekr_lite_fa3",
    "flex_attention": "seekr_lite_flex",
}


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

    def record(self, call: AttentionCall) -> torch.Tensor | None:
        """May return another output `[b, n, h, d]` in place of the layer's own."""
        ...


def tapped(kernel: str) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    """transformers' attention function of that name, with a recorder listening."""

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attention_recorder: Recorder | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        if options.get("softcap") is not None:
            raise UserError("the attention scores of this model are soft-capped, which the tap cannot follow")
        ordinary = ALL_ATTENTION_FUNCTIONS[kernel]
        named = module if kernel == "sdpa" else _NamedModule(module, kernel)
        output, weights = ordinary(named, query, key, value, attention_mask, **options)
        if attention_recorder is not None:
            scale = options.get("scaling")
            replaced = attention_recorder.record(
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
            output = output if replaced is None else replaced
        return output, weights

    return attention


class _NamedModule:
    """An attention module whose configuration names the ordinary kernel: flash reads there which one to call."""

    def __init__(self, module: torch.nn.Module, kernel: str) -> None:
        self._module = module
        self.config = _NamedConfig(module.config, kernel)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _NamedConfig:
    def __init__(self, config: Any, kernel: str) -> None:
        self._config = config
        self._attn_implementation = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


@contextmanager
def tap(model: Any) -> Iterator[None]:
    """Attention goes through the tap inside the block; the model's own implementation is restored afterwards.

    The block must enclose `backward()`: checkpointed layers run again there.

    Raises:
        UserError: the model's attention implementation has no tap beside it, or checkpointing is re-entrant.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    kernel = model.config._attn_implementation
    if kernel not in TAPPED:
        raise UserError(
            f'{type(model).__name__} runs with the attention implementation "{kernel}", which cannot be tapped; '
            f"allowed: {', '.join(TAPPED)}"
        )
    refuse_reentrant_checkpointing(model)
    AttentionInterface.register(TAPPED[kernel], tapped(kernel))
    # Without a mask function of the same name the mask would be None, and padded batches silently wrong.
    AttentionMaskInterface.register(TAPPED[kernel], ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    model.set_attn_implementation(TAPPED[kernel])
    try:
        yield
    finally:
        model.set_attn_implementation(kernel)


def refuse_reentrant_checkpointing(model: torch.nn.Module) -> None:
    """Raises `UserError`: inside re-entrant checkpoints what is recorded has no gradient, and nothing says so."""
    for module in model.modules():
        function = getattr(module, "_gradient_checkpointing_func", None)
        if getattr(module, "gradient_checkpointing", False) and getattr(function, "keywords", {}).get("use_reentrant"):
            raise UserError(
                "gradient checkpointing is re-entrant: attention recorded inside it would have no gradient. Use "
                'model.gradient_checkpointing_enable({"use_reentrant": False})'
            )


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
        """The pairs of some batch rows, renumbered as rows of that smaller batch, with the mask `[pairs]` of them."""
        position = torch.full((int(self.rows.max()) + 1 if len(self.rows) else 1,), -1, device=self.rows.device)
        inside = rows[rows < len(position)]
        position[inside] = torch.arange(len(rows), device=rows.device)[rows < len(position)]
        renumbered = position[self.rows]
        mask = renumbered >= 0
        queries = None if self.queries is None else self.queries[mask]
        return mask, HeadPairs(renumbered[mask], self.heads[mask], queries)


@dataclass(frozen=True)
class RecordedHeads:
    """query `[pairs, m, d]` and key `[pairs, n, d]` of a layer's chosen heads."""

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
    # Several queries may read one key, whose gradients add up.
    take = _take_heads if group == 1 else _take_shared_heads
    key = take(call.key, pairs.rows, pairs.heads // group)  # [pairs, n, d]
    if pairs.queries is None:
        query = _take_heads(call.query, pairs.rows, pairs.heads)  # [pairs, n, d]
    else:
        query = call.query[pairs.rows[:, None], pairs.heads[:, None], pairs.queries.clamp(min=0)]  # [pairs, m, d]
    return RecordedHeads(query, key, call.scale, call.window)


def _take_heads(states: torch.Tensor, rows: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    taken: torch.Tensor = _TakeHeads.apply(states, rows, heads)
    return taken


def _take_shared_heads(states: torch.Tensor, rows: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    return states[rows, heads]


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


def all_heads(batch: int, heads: int, device: torch.device, queries: torch.Tensor | None = None) -> HeadPairs:
    """Every head of every row, row by row: pair p is head p % heads of row p // heads. queries `[b, m]`."""
    index = torch.arange(batch * heads, device=device)
    wanted = None if queries is None else queries.repeat_interleave(heads, dim=0)
    return HeadPairs(index // heads, index % heads, wanted)
