"""Grafting: the attention maps of one model in chosen heads of another, while it runs (SEEKR, figure 1)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from seekr_lite.attention.maps import CHUNK_ROWS, MapShape, attention_maps, row_chunks
from seekr_lite.attention.recording import HeadRecorder
from seekr_lite.attention.selection import Head
from seekr_lite.attention.tap import AttentionCall


class MapGraft:
    """A recorder that lets chosen heads attend as another model did; the values stay those of the running model.

    Args:
        source: what the other model's pass over the same batch left, for `all_heads` of it.
        padding: `[b]`, pad tokens on the left.
        heads: (layer, head) pairs.
    """

    def __init__(
        self, source: HeadRecorder, padding: torch.Tensor, heads: Iterable[Head], chunk_rows: int = CHUNK_ROWS
    ) -> None:
        self.source = source
        self.padding = padding
        self.chunk_rows = chunk_rows
        self.layers: dict[int, list[int]] = {}
        for layer, head in sorted(heads):
            self.layers.setdefault(layer, []).append(head)

    def record(self, call: AttentionCall) -> torch.Tensor | None:
        """The layer's output `[b, n, h, d]` with the chosen heads' part replaced; None where the layer has none."""
        if call.layer not in self.layers:
            return None
        heads = torch.tensor(self.layers[call.layer], device=call.output.device)
        batch, count = call.query.shape[:2]
        other = self.source.layers[call.layer]
        pairs = (torch.arange(batch, device=heads.device)[:, None] * count + heads).flatten()  # [p], row by row
        values = call.value[:, heads // (count // call.value.shape[1])].flatten(0, 1)  # [p, n, d]
        shape = other.map_shape(self.padding.repeat_interleave(len(heads)))
        attended = attend(other.query[pairs], other.key[pairs], values, shape, self.chunk_rows)
        output = call.output.clone()
        output[:, :, heads] = attended.unflatten(0, (batch, len(heads))).transpose(1, 2).to(output.dtype)
        return output


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, shape: MapShape, chunk_rows: int = CHUNK_ROWS
) -> torch.Tensor:
    """The map of query and key, times value: `[p, n, d]` from three such tensors, at least fp32.

    Rows of padding get the first value: finite, and read by nobody.
    """
    parts = []
    for first, last in row_chunks(query.shape[1], chunk_rows):
        maps = attention_maps(query, key, shape, first, last)  # [p, rows, keys]
        parts.append(maps @ value[:, : maps.shape[-1]].to(maps.dtype))
    return torch.cat(parts, dim=1)
