"""Greedy decoding of a batch of prompts, in which a row that has ended costs nothing more.

Prompts of like length are read together, since a padded token costs as much as a real one. Then all rows answer
together, because every step unpacks the whole 4-bit base, for one row or for many. A row that has ended leaves.

Legend: r rows, h key and value heads, n tokens, d size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.generation.streamers import BaseStreamer

from seekr_lite.data.batch import collate, split_by_tokens
from seekr_lite.data.encoding import EncodedExample

PROMPT_TOKENS = 2048  # prompt tokens, padded, that are read at once: enough to keep any device busy
# Kernels add up many columns at a time, and padding shifts a row's tokens in these sums: in bf16, near-ties of two
# tokens then fall the other way. Shifted by whole vectors, most sums stay as they are (docs/architecture.md: not all).
ALIGNED = 16


def can_answer(model: Any) -> bool:
    """Whether every layer of the model's cache holds the keys and values of all tokens, as `AnswerLayer` does.

    Sliding windows and layers that are not attention keep something else.
    """
    if not model._supports_default_dynamic_cache():
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@torch.no_grad()
def greedy_answers(
    model: Any,
    prompts: Sequence[EncodedExample],
    max_new_tokens: int,
    pad_token_id: int,
    eos_token_id: int,
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """The tokens of each answer, up to the end token (which is included) or `max_new_tokens`.

    Args:
        model: for which `can_answer`, in eval mode.
        streamer: of a single prompt: is given the prompt, then each token, as transformers' own loop does it.
    """
    if streamer is not None:
        streamer.put(torch.tensor([prompts[0].input_ids]))
    rows, cache, tokens = _read_prompts(model, prompts, max_new_tokens, pad_token_id)
    lengths = torch.tensor([len(prompts[row].input_ids) for row in rows], device=tokens.device)
    width = cache.get_seq_length()
    places = torch.arange(width + max_new_tokens, device=tokens.device)
    mask = (places >= width - lengths[:, None]).long()  # of the prompts and of all tokens to come
    answers: list[list[int]] = [[] for _ in prompts]
    for step in range(max_new_tokens):
        for row, token in zip(rows, tokens.tolist(), strict=True):
            answers[row].append(token)
        if streamer is not None:
            streamer.put(tokens.cpu())
        goes_on = tokens != eos_token_id
        if step == max_new_tokens - 1 or not goes_on.any():
            break
        if not goes_on.all():
            kept = close_ranks(goes_on)
            cache.batch_select_indices(kept)
            rows = [rows[place] for place in kept.tolist()]
            tokens, lengths, mask = tokens[kept], lengths[kept], mask[kept]
        output = model(
            input_ids=tokens[:, None],
            attention_mask=mask[:, : width + step + 1],
            position_ids=lengths[:, None] + step,
            past_key_values=cache,
            use_cache=True,
        )
        tokens = output.logits[:, -1].float().argmax(-1)
    if streamer is not None:
        streamer.end()
    return answers


def close_ranks(stays: torch.Tensor) -> torch.Tensor:
    """The places of the rows that stay, `[r]` bool -> `[rows that stay]`: the last ones fill the gaps of the others."""
    count = int(stays.sum())
    kept = torch.arange(count, device=stays.device)
    kept[~stays[:count]] = count + stays[count:].nonzero()[:, 0]
    return kept


def _read_prompts(
    model: Any, prompts: Sequence[EncodedExample], room: int, pad_token_id: int
) -> tuple[list[int], DynamicCache, torch.Tensor]:
    """Rows of the prompts in the cache's order, the cache, and the first token of each answer `[r]`."""
    device = next(model.parameters()).device
    last = torch.tensor([-1], device=device)  # as a slice, the output layer would be copied for every row
    groups = split_by_tokens([len(prompt.input_ids) for prompt in prompts], PROMPT_TOKENS)
    caches, tokens = [], []
    for group in groups:
        batch = collate([prompts[row] for row in group], pad_token_id, ALIGNED).to(device)
        caches.append(DynamicCache(config=model.config))
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            past_key_values=caches[-1],
            use_cache=True,
            logits_to_keep=last,
        )
        tokens.append(output.logits[:, -1].float().argmax(-1))
    cache = DynamicCache(config=model.config)
    # A layer leaves its parts as it is joined, so that no more than one is held twice.
    cache.layers = [AnswerLayer([part.layers.pop(0) for part in caches], room) for _ in cache.layers]
    return [row for group in groups for row in group], cache, torch.cat(tokens)


class AnswerLayer(DynamicLayer):
    """Keys and values of one layer, with room for the answers: `[r, h, n + room, d]`.

    transformers' own layer copies all tokens for each new one, and all rows when one leaves. Here a token is written
    into its place, and the only rows that are copied are those that move. `keys` and `values` are views.
    """

    def __init__(self, parts: Sequence[DynamicLayer], room: int) -> None:
        """Joins the layers of several batches, each padded on the left to the longest."""
        super().__init__()
        self.lazy_initialization(parts[0].keys, parts[0].values)
        self._room = [_join([part.keys for part in parts], room), _join([part.values for part in parts], room)]
        self._look_at(sum(len(part.keys) for part in parts), max(part.keys.shape[2] for part in parts))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes in the new tokens `[r, h, new, d]`; returns the keys and values of all."""
        rows, _, start, _ = self.keys.shape
        self._look_at(rows, start + key_states.shape[2])
        self.keys[:, :, start:] = key_states
        self.values[:, :, start:] = value_states
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows, in this order."""
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        for states in (self.keys, self.values):
            states[moved] = states[indices[moved]]
        self._look_at(len(indices), self.keys.shape[2])

    def _look_at(self, rows: int, tokens: int) -> None:
        self.keys, self.values = (states[:rows, :, :tokens] for states in self._room)


def _join(parts: Sequence[torch.Tensor], room: int) -> torch.Tensor:
    """Tensors `[r, h, n, d]`, one below the other, so that their tokens end together with `room` behind them."""
    tokens = max(part.shape[2] for part in parts)
    _, heads, _, size = parts[0].shape
    joined = parts[0].new_zeros(sum(len(part) for part in parts), heads, tokens + room, size)
    for place, part in zip(joined.split([len(part) for part in parts]), parts, strict=True):
        place[:, :, tokens - part.shape[2] : tokens] = part
    return joined
