"""Attention distillation as the official SEEKR code has it, as a rival to measure against.

In the layers that hold chosen heads attention is eager: every head's map is made (softmax in fp32, cast to the model's
dtype), and the chosen heads' maps are compared with the teacher's cached ones inside the attention function, so that
the maps stay for the backward pass. All other layers run sdpa. Written anew from what the code does, and leaner where
that changes no number: scores are scaled and masked in place, the mask is made once a step and not once a layer, and
nothing waits for the device.

Legend: b batch, h query heads, g key heads, c chosen heads, n tokens, d size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from seekr_lite.attention.divergence import OFFICIAL_EPSILON
from seekr_lite.attention.selection import Head

NAME = "official_seekr"


@dataclass(frozen=True)
class ChosenHeads:
    """The chosen heads of each row of a batch.

    heads: layer -> for each row its heads there `[c]`, possibly none. lengths: real tokens of each row.
    mask: `[b, 1, n, n]`, added to the scores: causal, and pad tokens hidden.
    """

    heads: dict[int, list[torch.Tensor]]
    lengths: list[int]
    mask: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[Head]], attention_mask: torch.Tensor, dtype: torch.dtype) -> ChosenHeads:
        """From each row's (layer, head) pairs and the batch's `[b, n]` mask of real tokens."""
        device, tokens = attention_mask.device, attention_mask.shape[1]
        heads = {
            layer: [
                torch.tensor([head for at, head in row if at == layer], dtype=torch.long).to(device) for row in rows
            ]
            for layer in sorted({layer for row in rows for layer, _ in row})
        }
        seen = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril() & attention_mask.bool()[:, None, None]
        mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, torch.finfo(dtype).min)
        return cls(heads, attention_mask.sum(-1).tolist(), mask)

    def pick(self, layer: int, maps: torch.Tensor) -> list[torch.Tensor]:
        """Each row's chosen maps `[c, its n, its n]` out of all `[b, h, n, n]`, without padding."""
        return [
            maps[row, heads, -length:, -length:]
            for row, (heads, length) in enumerate(zip(self.heads[layer], self.lengths, strict=True))
        ]


class MapReader(Protocol):
    """What is done with a layer's maps: `model(..., map_reader=reader)`."""

    chosen: ChosenHeads

    def read(self, layer: int, maps: torch.Tensor) -> None: ...


@dataclass
class TeacherMaps:
    """The cache of the official code: the chosen maps of the teacher, layer -> for each row `[c, its n, its n]`."""

    chosen: ChosenHeads
    layers: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def read(self, layer: int, maps: torch.Tensor) -> None:
        self.layers[layer] = self.chosen.pick(layer, maps.detach())

    def tensors(self) -> list[torch.Tensor]:
        return [part for parts in self.layers.values() for part in parts]


@dataclass
class OfficialDistillation:
    """KL(teacher map, student map + epsilon) by layer: mean over a row's heads and queries, then over the rows."""

    chosen: ChosenHeads
    teacher: TeacherMaps
    losses: dict[int, torch.Tensor] = field(default_factory=dict)

    def read(self, layer: int, maps: torch.Tensor) -> None:
        pairs = zip(self.chosen.pick(layer, maps), self.teacher.layers[layer], strict=True)
        parts = [_divergence(student, teacher) for student, teacher in pairs if len(teacher)]
        # Once: checkpointing calls again in the backward pass. Summed there all the same, for it compares the two.
        self.losses.setdefault(layer, torch.stack(parts).sum() / len(self.chosen.lengths))

    def loss(self) -> torch.Tensor:
        """Mean over the layers."""
        return torch.stack(list(self.losses.values())).mean()


def _divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    tokens = teacher.shape[-1]
    return F.kl_div(
        torch.log(student.reshape(-1, tokens) + OFFICIAL_EPSILON), teacher.reshape(-1, tokens), reduction="batchmean"
    )


def eager_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output `[b, n, h, d]` and maps `[b, h, n, n]`. query `[b, h, n, d]`; key and value `[b, g, n, d]`."""
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = (query @ key.transpose(2, 3)).mul_(scale).add_(mask)
    maps = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (maps @ value).transpose(1, 2).contiguous(), maps


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    map_reader: MapReader | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if map_reader is not None and layer in map_reader.chosen.heads:
        output, maps = eager_attention(query, key, value, map_reader.chosen.mask, scaling)
        map_reader.read(layer, maps)
        return output, None
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    result: tuple[torch.Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
        module, query, key, value, attention_mask, scaling=scaling, **options
    )
    return result


@contextmanager
def official_attention(model: Any) -> Iterator[None]:
    """The model attends the official way inside the block, which must enclose `backward()`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    before = model.config._attn_implementation
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
