"""Soft prompts: learned vectors in front of every row, in place of embeddings of tokens.

A vector is a *virtual token*: an id behind the end of the vocabulary. Virtual tokens are put in front of a row's own
tokens, and a hook on the embedding layer answers their ids with the vectors. So masks, positions, caches and attention
treat them as what they are, tokens, and any decoder of transformers works.

Legend: r rows, n tokens, p virtual tokens of a row, v vectors, h hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from seekr_lite.data.batch import IGNORED, Batch, collate
from seekr_lite.data.encoding import EncodedExample

Choose = Callable[[Batch], torch.Tensor]  # a batch -> which vectors go in front of each row, `[r, p]`


class PromptedModel(torch.nn.Module):
    """A causal language model whose rows begin with the vectors that act: what `read` gives, or none.

    `choose` says which of them go in front of which row; by default all of them, in order, in front of every one.
    Called or asked to generate, it adds them itself, and what it returns is without them.
    """

    def __init__(self, causal: Any) -> None:
        super().__init__()
        self.causal = causal
        self.read: Callable[[], torch.Tensor | None] = lambda: None
        self.choose: Choose | None = None
        embeddings = causal.get_input_embeddings()
        self.first_id = int(embeddings.weight.shape[0])
        self._virtual: torch.Tensor | None = None  # [r, n]: which ids of the running forward are virtual, and which
        embeddings.register_forward_pre_hook(self._before)
        embeddings.register_forward_hook(self._after)

    def get_base_model(self) -> Any:
        """The model inside; it knows virtual ids, and adds none."""
        return self.causal

    @property
    def config(self) -> Any:
        return self.causal.config

    @property
    def vectors(self) -> torch.Tensor | None:
        """What acts: `[v, h]`; made anew each time, so that every backward pass has a graph of its own."""
        return self.read()

    def token_embeddings(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of real tokens, without gradients: `[..., h]`."""
        with torch.no_grad():
            found: torch.Tensor = self.causal.get_input_embeddings()(ids)
        return found

    # ------------------------------------------------------------------ rows with virtual tokens

    def with_prompt(self, batch: Batch) -> Batch:
        """The batch with virtual tokens between each row's padding and its first token."""
        if self.vectors is None:
            return batch
        rows, tokens = batch.input_ids.shape
        ids = self._chosen(batch) + self.first_id  # [r, p]
        count, device = ids.shape[1], ids.device
        # A row's own tokens move right by p, its padding stays; in between the virtual ones.
        columns = torch.arange(tokens, device=device).expand(rows, tokens)
        own = torch.where(batch.attention_mask.bool(), columns + count, columns)
        virtual = batch.padding[:, None] + torch.arange(count, device=device)

        def widened(values: torch.Tensor, front: torch.Tensor) -> torch.Tensor:
            wide = values.new_zeros(rows, tokens + count)
            return wide.scatter(1, own, values).scatter(1, virtual, front)

        mask = widened(batch.attention_mask, torch.ones_like(ids))
        return Batch(
            input_ids=widened(batch.input_ids, ids),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            labels=widened(batch.labels, torch.full_like(ids, IGNORED)),
        )

    def rows_with_prompt(self, rows: Sequence[EncodedExample]) -> list[EncodedExample]:
        """`with_prompt` for rows that are no batch yet."""
        if self.vectors is None or not rows:
            return list(rows)
        if self.choose is None:
            front = [tuple(range(self.first_id, self.first_id + len(self.vectors)))] * len(rows)
        else:
            batches = (collate([row], 0).to(self.vectors.device) for row in rows)
            front = [tuple((self.choose(batch)[0] + self.first_id).tolist()) for batch in batches]
        return [replace(row, input_ids=(*ids, *row.input_ids)) for ids, row in zip(front, rows, strict=True)]

    def _chosen(self, batch: Batch) -> torch.Tensor:
        if self.choose is not None:
            return self.choose(batch)
        vectors = self.read()
        assert vectors is not None, "rows get a prompt where there is one"
        return torch.arange(len(vectors), device=batch.input_ids.device).expand(len(batch.input_ids), -1)

    # ------------------------------------------------------------------ used as any other model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: Any) -> Any:
        """As the model inside; logits are those of the given tokens. Rows are padded on the left, if at all."""
        batch = self.with_prompt(_as_batch(input_ids, attention_mask))
        options.pop("position_ids", None)
        output = self.causal(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids, **options
        )
        output.logits = output.logits[:, -input_ids.shape[1] :]
        return output

    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: Any
    ) -> torch.Tensor:
        """As transformers' `generate`: the given tokens, and the new ones behind them."""
        batch = self.with_prompt(_as_batch(input_ids, attention_mask))
        output = self.causal.generate(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **options)
        return torch.cat([input_ids, output[:, batch.input_ids.shape[1] :]], 1)

    # ------------------------------------------------------------------ the hook

    def _before(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Virtual ids are none that the embedding layer knows."""
        (ids,) = inputs
        self._virtual = None
        if self.read() is None:
            return None
        self._virtual = ids - self.first_id
        return (torch.where(self._virtual >= 0, 0, ids),)

    def _after(self, module: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        vectors = self.read()
        if self._virtual is None or vectors is None:
            return None
        found = vectors.to(output.dtype)[self._virtual.clamp(min=0)]
        virtual = (self._virtual >= 0)[..., None]
        self._virtual = None
        return torch.where(virtual, found, output)


def _as_batch(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> Batch:
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return Batch(input_ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), torch.full_like(input_ids, IGNORED))
