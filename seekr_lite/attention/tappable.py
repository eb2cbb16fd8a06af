"""Whether a model's attention is what the tap takes it for, layer by layer; else it is refused by name.

The tap makes maps from queries and keys as softmax(scale q k^T) under a causal mask, padding and the layer's window.
So a few tokens are run once, and each layer's output must be these maps times its values.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch

from seekr_lite.attention.map_graft import attend
from seekr_lite.attention.maps import NO_ROW
from seekr_lite.attention.recording import all_heads, select_heads
from seekr_lite.attention.tap import AttentionCall, tap
from seekr_lite.common.errors import UserError
from seekr_lite.common.train_mode import eval_mode

PROBE_TOKENS, PROBE_PADDING = 8, 3
# The largest difference of an output, against its largest value: rounding stays far below, another mask far above.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.05}
# transformers' names of layers whose map the window of a layer describes.
KNOWN_LAYER_TYPES = {"full_attention": False, "attention": False, "sliding_attention": True}


_CHECKED: WeakSet[torch.nn.Module] = WeakSet()  # a model that has passed once is not run again


def check_tappable(model: Any) -> None:
    """Runs a few tokens through the model, the first time that it is asked for.

    Raises:
        UserError: layers without softmax attention, attention that does not go through transformers' interface, or
            scores that are changed on the way (soft-capping, biases, sinks, chunks), naming model and layers.
    """
    if model in _CHECKED:
        return
    config = model.config.get_text_config()
    layers = int(config.num_hidden_layers)
    types = getattr(config, "layer_types", None) or [None] * layers
    unknown = sorted({kind for kind in types if kind is not None and kind not in KNOWN_LAYER_TYPES})
    if unknown:
        where = [index for index, kind in enumerate(types) if kind in unknown]
        raise _refused(model, f"layers {_list(where)} are {', '.join(unknown)}, which has no map that SEEKR could hold")
    seen = _probe(model)
    silent = [layer for layer in range(layers) if layer not in seen.difference]
    if silent:
        raise _refused(
            model, f"layers {_list(silent)} do not go through transformers' attention interface and its keywords"
        )
    odd = [layer for layer, kind in enumerate(types) if kind and KNOWN_LAYER_TYPES[kind] != seen.windowed[layer]]
    if odd:
        raise _refused(model, f"layers {_list(odd)} do not say how many keys a query sees")
    other = [layer for layer, difference in seen.difference.items() if not difference <= seen.tolerance]
    if other:
        raise _refused(
            model, f"layers {_list(other)} do more than softmax over queries and keys (a bias, sinks, another mask)"
        )
    _CHECKED.add(model)


class _PlainAttention:
    """Compares each layer's output with the maps that its queries and keys make."""

    def __init__(self, padding: torch.Tensor) -> None:
        self.padding = padding  # [b]
        self.difference: dict[int, float] = {}
        self.windowed: dict[int, bool] = {}
        self.tolerance = 0.0

    def record(self, call: AttentionCall) -> None:
        batch, heads = call.query.shape[:2]
        pairs = all_heads(batch, heads, call.query.device)
        chosen = select_heads(call, pairs)
        shape = chosen.map_shape(self.padding[pairs.rows])
        value = call.value[pairs.rows, pairs.heads // (heads // call.value.shape[1])]  # [pairs, n, d]
        made = attend(chosen.query, chosen.key, value, shape)
        given = call.output.transpose(1, 2).flatten(0, 1)[..., : made.shape[-1]].to(made.dtype)  # [pairs, n, d]
        real = (shape.rows != NO_ROW)[..., None]
        largest = (given * real).abs().max()
        self.difference[call.layer] = float(((made - given) * real).abs().max() / largest.clamp(min=1e-30))
        self.windowed[call.layer] = call.window is not None
        self.tolerance = TOLERANCE[call.query.dtype]


@torch.no_grad()
def _probe(model: Any) -> _PlainAttention:
    device = next(model.parameters()).device
    ids = torch.arange(2 * PROBE_TOKENS, device=device).view(2, PROBE_TOKENS) % int(model.config.vocab_size)
    mask = torch.ones_like(ids)
    mask[1, :PROBE_PADDING] = 0
    recorder = _PlainAttention(torch.tensor([0, PROBE_PADDING], device=device))
    with eval_mode(model.modules()), tap(model):
        model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=1,
            attention_recorder=recorder,
        )
    return recorder


def _refused(model: Any, what: str) -> UserError:
    return UserError(
        f"{type(model).__name__}: {what}; take another base, or a method without attention (derpp, replay)"
    )


def _list(layers: list[int]) -> str:
    shown = ", ".join(map(str, layers[:6]))
    return f"{shown} and {len(layers) - 6} more" if len(layers) > 6 else shown
