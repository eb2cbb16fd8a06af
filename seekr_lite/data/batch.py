"""Rows become a batch: padded on the left, so that answers end together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from seekr_lite.data.encoding import EncodedExample

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """All tensors `[rows, tokens]`, padded on the left; labels are -100 outside of the answers.

    position_ids count from 0 at a row's first real token.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def subset(self, rows: torch.Tensor) -> Batch:
        """Some rows, at the same width."""
        return Batch(**{name: tensor[rows] for name, tensor in vars(self).items()})

    @property
    def padding(self) -> torch.Tensor:
        """Pad tokens on the left of each row: `[rows]`."""
        return self.attention_mask.shape[1] - self.attention_mask.sum(-1)


def collate(rows: Sequence[EncodedExample], pad_token_id: int, multiple_of: int = 1) -> Batch:
    """Pads rows on the left to the longest of them, and to a multiple of so many tokens."""
    tokens = max(len(row.input_ids) for row in rows)
    tokens += -tokens % multiple_of
    input_ids = torch.full((len(rows), tokens), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED)
    for index, row in enumerate(rows):
        ids = torch.tensor(row.input_ids)
        input_ids[index, tokens - len(ids) :] = ids
        attention_mask[index, tokens - len(ids) :] = 1
        labels[index, tokens - row.answer_length :] = ids[len(ids) - row.answer_length :]
    position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    return Batch(input_ids, attention_mask, position_ids, labels)


def split_by_tokens(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Groups indices of rows, longest first, so that the longest length x rows of a group is at most `max_tokens`.

    A row that is longer than that makes a group of its own. Every index is in exactly one group.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def split_by_cost(lengths: Sequence[int], max_tokens: int, pass_tokens: int) -> list[list[int]]:
    """Groups indices of rows, longest first, so that passing all of them costs least.

    A group of k rows, the longest of n tokens, costs k n tokens, padding included, and `pass_tokens` on top: what a
    pass costs whatever it holds. Groups stay within `max_tokens` as those of `split_by_tokens`; every index is in
    exactly one. Of the rows sorted by length, the best groups of the first j follow from the best ones of fewer.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    best, start = [0], [0]  # of the first j rows: the least cost, and where the last group begins
    for end in range(1, len(order) + 1):
        costs = [
            (best[first] + lengths[order[first]] * (end - first) + pass_tokens, first)
            for first in range(end)
            if end - first == 1 or lengths[order[first]] * (end - first) <= max_tokens
        ]
        cost, first = min(costs)
        best.append(cost)
        start.append(first)
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(order[start[end] : end])
        end = start[end]
    return groups[::-1]
