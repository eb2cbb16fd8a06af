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
        # flash reads in the module's configuration which kernel to call, and would find the name of ours there.
        named: Any = module
        if kernel != "sdpa":
            named = _Replaced(module, config=_Replaced(module.config, _attn_implementation=kernel))
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


class _Replaced:
    """Another object, but for some attributes."""

    def __init__(self, inner: Any, **attributes: Any) -> None:
        self._inner = inner
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


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
