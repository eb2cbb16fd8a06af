"""Attention maps from queries and keys, in chunks of query rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

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


def map_change(
    query: torch.Tensor,
    key: torch.Tensor,
    other_query: torch.Tensor,
    other_key: torch.Tensor,
    shape: MapShape,
    chunk_rows: int = CHUNK_ROWS,
) -> torch.Tensor:
    """SEEKR's forgettability: mean over compared query rows and real keys of two maps' squared difference: `[p]`."""
    total = query.new_zeros(len(query), dtype=torch.promote_types(query.dtype, torch.float32))
    for first, last in row_chunks(query.shape[1], chunk_rows):
        # Of one chunk, both maps are there at a time: whole maps of a long sample would not fit beside the model.
        change = attention_maps(query, key, shape, first, last)
        change -= attention_maps(other_query, other_key, shape, first, last)
        total += (change.square_().sum(-1) * shape.counted[:, first:last]).sum(-1)
    # Keys that a row does not see yet are 0 in both maps, and count: the official code takes the mean of square maps.
    real_keys = key.shape[1] - shape.padding
    return total / (shape.counted.sum(-1) * real_keys)


def attention_maps(query: torch.Tensor, key: torch.Tensor, shape: MapShape, first: int, last: int) -> torch.Tensor:
    """Attention probabilities of some query rows, as far as they see, in at least fp32: `[p, rows, keys]`."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    keys = shape.keys_until(last, key.shape[1])
    scaled_query = query[:, first:last].to(dtype) * shape.scale
    scores = scaled_query.new_empty(len(query), last - first, keys)
    mask = shape.mask(first, last, keys, out=scores)
    return masked_scores(scaled_query, key[:, :keys].to(dtype), mask, out=scores).softmax(-1)


def masked_scores(scaled_query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Attention scores of some query rows before the softmax: `[p, rows, keys]`; `out` may be the mask itself."""
    return torch.baddbmm(mask, scaled_query, key.transpose(1, 2), out=out)


def row_chunks(rows: int, size: int) -> list[tuple[int, int]]:
    """(first, last) of consecutive chunks of at most `size` rows."""
    return [(first, min(first + size, rows)) for first in range(0, rows, size)]
