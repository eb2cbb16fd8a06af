"""What a head is worth: task sensitivity (how much the task's loss depends on its map) and forgettability (how
much its map moved while the task was learned). SEEKR, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from seekr_lite.attention.maps import all_rows, map_change
from seekr_lite.attention.recording import HeadRecorder, all_heads, select_heads
from seekr_lite.attention.tap import AttentionCall


class SensitivityRecorder:
    """Mean square over (query, key) of the loss' gradient with respect to every attention probability.

    That gradient is dO V^T (dO: gradient of the head's output before the output projection), so the sum of its
    squares is <dO^T dO, V^T V>: two d x d matrices a head, no map. The whole square counts, as in the official code.
    """

    def __init__(self, padding: torch.Tensor) -> None:
        self.padding = padding  # [b]
        self.layers: dict[int, torch.Tensor] = {}  # layer -> [b, heads]

    def record(self, call: AttentionCall) -> None:
        if not call.output.requires_grad:
            return
        tokens = call.value.shape[2]
        real = all_rows(self.padding, tokens) >= 0  # [b, n]
        value = (call.value.detach() * real[:, None, :, None]).to(torch.promote_types(call.value.dtype, torch.float32))
        group = call.query.shape[1] // call.value.shape[1]
        # <G^T G, V^T V> is the sum of squares of G V^T, whose n x n entries are never made.
        value_gram = (value.transpose(2, 3) @ value).repeat_interleave(group, dim=1)  # [b, h, d, d]
        area = (tokens - self.padding).to(value.dtype).square()[:, None]  # [b, 1]
        layer = call.layer  # a hook that held the call would hold its own tensor, and all of the layer with it

        def measure(grad: torch.Tensor) -> None:
            per_head = grad.transpose(1, 2).to(value_gram.dtype)  # [b, h, n, d]
            gram = per_head.transpose(2, 3) @ per_head
            self.layers.setdefault(layer, (gram * value_gram).sum((2, 3)) / area)

        call.output.register_hook(measure)


class ChangeRecorder:
    """Mean square difference between the maps recorded before and the maps that pass by now, for all heads."""

    def __init__(self, before: HeadRecorder, padding: torch.Tensor, queries: torch.Tensor | None = None) -> None:
        self.before = before
        self.padding = padding  # [b]
        self.queries = queries  # [b, m], the compared query rows; None: all real ones
        self.layers: dict[int, torch.Tensor] = {}  # layer -> [b, heads]

    def record(self, call: AttentionCall) -> None:
        batch, heads = call.query.shape[:2]
        pairs = all_heads(batch, heads, call.query.device, self.queries)
        now, then = select_heads(call, pairs), self.before.layers[call.layer]
        shape = now.map_shape(self.padding.repeat_interleave(heads), pairs.queries)
        self.layers[call.layer] = map_change(now.query, now.key, then.query, then.key, shape).view(batch, heads)


@dataclass(frozen=True)
class HeadScores:
    """What a task says of every head; all `[layers, heads]`. `importance` is accumulated over the tasks so far."""

    sensitivity: torch.Tensor
    forgettability: torch.Tensor
    importance: torch.Tensor


def normalise_layers(sensitivity: torch.Tensor) -> torch.Tensor:
    """Divides by the sum over the heads of each layer: layers differ in scale. A layer of zeros stays zero."""
    total = sensitivity.sum(-1, keepdim=True)
    return torch.where(total > 0, sensitivity / total, torch.zeros_like(sensitivity))


def accumulated_importance(
    sensitivities: list[torch.Tensor], forgettabilities: list[torch.Tensor], accumulate: str
) -> torch.Tensor:
    """`[layers, heads]`: sum_k S_k F_k (official code) or (sum_k S_k) (sum_k F_k) (SEEKR, eq. 7)."""
    if accumulate == "product_of_sums":
        return torch.stack(sensitivities).sum(0) * torch.stack(forgettabilities).sum(0)
    products = [s * f for s, f in zip(sensitivities, forgettabilities, strict=True)]
    return torch.stack(products).sum(0)


def mean_by_layer(samples: Sequence[dict[int, torch.Tensor]]) -> torch.Tensor:
    """Mean over samples, layers stacked: `[layers, heads]` from one dictionary layer -> `[1, heads]` a sample."""
    layers = range(len(samples[0]))
    return torch.stack([torch.cat([sample[layer] for sample in samples]).mean(0) for layer in layers]).cpu()
