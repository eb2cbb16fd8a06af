"""The sequence of soft prompts on one frozen base: `lora.py` for vectors in front of the rows in place of LoRA.

A prompt that goes on from task to task (`l2p`, `lfpt5`) is one set of vectors. A progressive one (`pp`) starts afresh
with each task, in front of the frozen ones of all tasks before. A snapshot is a prompt-tuning adapter of PEFT
(`prompt_embeddings` `[v, h]`), but where a method chooses among the vectors row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from seekr_lite.common.seeds import seed_for
from seekr_lite.common.train_mode import eval_mode
from seekr_lite.data.batch import IGNORED, Batch, collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.model.base import Base
from seekr_lite.model.snapshots import PROMPT_EMBEDDINGS, Snapshot, SnapshotSequence
from seekr_lite.recipe.recipe import AdapterSettings

GENERATION = "generation_embedding"


class PromptSequence(SnapshotSequence):
    """The student's vectors, and the snapshots of finished tasks.

    Args:
        tokens: vectors of the student.
        progressive: each task has vectors of its own, in front of those of all tasks before.
        generation: one vector more, behind the others, which acts inside `generating` only: there the model writes
            rows of its task.
    """

    def __init__(
        self,
        base: Base,
        settings: AdapterSettings,
        seed: int,
        tokens: int,
        progressive: bool = False,
        generation: bool = False,
    ) -> None:
        self.base, self.settings, self.seed = base, settings, seed
        self.grows = progressive
        self.snapshots: list[Snapshot] = []
        self.model: PromptedModel = PromptedModel(base.model)
        self.student: dict[str, torch.nn.Parameter] = {}
        self.add(PROMPT_EMBEDDINGS, tokens)
        if generation:
            self.add(GENERATION, 1)
        self._frozen: torch.Tensor | None = None  # of the tasks before [v, h]
        # What acts now, by name: the student, or a snapshot on the device; nothing on the bare base.
        self.acting: Mapping[str, torch.Tensor] = self.student
        self._generating = False
        self.model.vectors = self._vectors

    @property
    def teacher_rank(self) -> int:
        """As large as the prompt is: there is no slot."""
        return len(self.student[PROMPT_EMBEDDINGS])

    def start_task(self, from_previous: bool = True) -> None:
        index = len(self.snapshots)
        generator = torch.Generator().manual_seed(seed_for(self.seed, "prompt", index))
        with torch.no_grad():
            for name, parameter in sorted(self.student.items()):
                if index and from_previous and not self.grows:
                    parameter.copy_(self.snapshots[-1].weights[name])
                else:
                    parameter.copy_(self.initial(name, parameter, generator))
        self._frozen = None
        if self.grows and index:
            self._frozen = self.snapshots[-1].weights[PROMPT_EMBEDDINGS].to(self.base.device)

    def finish_task(self) -> Snapshot:
        weights = {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in self.student.items()}
        if self._frozen is not None:
            own = weights[PROMPT_EMBEDDINGS]
            weights[PROMPT_EMBEDDINGS] = torch.cat([own, self._frozen.to("cpu", own.dtype)])
        snapshot = Snapshot(weights, len(weights[PROMPT_EMBEDDINGS]), 1.0)
        self.snapshots.append(snapshot)
        return snapshot

    @contextmanager
    def acting_as(self, index: int | None, slot_rank: int | None = None) -> Iterator[None]:
        before = self.acting
        try:
            if index is None:
                self.acting = {}
            else:
                self.become(self.snapshots[index])
            with torch.no_grad(), eval_mode(self.model.modules()):
                yield
        finally:
            self.acting = before

    def become(self, snapshot: Snapshot) -> None:
        self.acting = {name: tensor.to(self.base.device) for name, tensor in snapshot.weights.items()}

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Inside the block the prompt has the vector after which the model writes rows of its task."""
        self._generating = True
        try:
            yield
        finally:
            self._generating = False

    def config_of(self, snapshot: Snapshot) -> dict[str, Any]:
        """`adapter_config.json` of a prompt-tuning adapter of PEFT, with sorted keys."""
        text = self.base.model.config.get_text_config()
        return {
            "base_model_name_or_path": self.base.name_or_path,
            "inference_mode": True,
            "num_attention_heads": text.num_attention_heads,
            "num_layers": text.num_hidden_layers,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": snapshot.rank,
            "peft_type": "PROMPT_TUNING",
            "prompt_tuning_init": "RANDOM",
            "revision": self.base.revision,
            "task_type": "CAUSAL_LM",
            "token_dim": snapshot.weights[PROMPT_EMBEDDINGS].shape[1],
        }

    # ------------------------------------------------------------------ vectors

    def add(self, name: str, count: int) -> None:
        """Makes vectors a part of the student."""
        embeddings: Any = self.base.model.get_input_embeddings()
        shape, dtype = (count, int(embeddings.weight.shape[1])), getattr(torch, self.settings.dtype)
        self.student[name] = torch.nn.Parameter(torch.zeros(shape, dtype=dtype, device=self.base.device))
        self.model.register_parameter(name, self.student[name])

    def _vectors(self) -> torch.Tensor | None:
        """What acts now: `[v, h]`."""
        if not self.acting:
            return None
        parts = [self.acting[PROMPT_EMBEDDINGS]]
        if self.acting is self.student and self._frozen is not None:
            parts.append(self._frozen)
        if self._generating:
            parts.append(self.acting[GENERATION])
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def initial(self, name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Where a parameter starts `[v, h]`: embeddings of tokens drawn at random on the host (Lester et al. 2021,
        arXiv 2104.08691)."""
        drawn = torch.randint(self.model.first_id, (len(parameter),), generator=generator)
        return self.model.token_embeddings(drawn.to(self.base.device))


Choose = Callable[[Batch], torch.Tensor]  # a batch -> which vectors go in front of each row, `[r, p]`


class PromptedModel(torch.nn.Module):
    """A causal language model whose rows begin with the vectors that act: what `vectors` gives, `[v, h]`, or none.

    `choose` says which of them go in front of which row; by default all of them, in order, in front of every one.
    Called or asked to generate, it adds them itself, and what it returns is without them.
    """

    def __init__(self, causal: Any) -> None:
        super().__init__()
        self.causal = causal
        # Made anew each time, so that every backward pass has a graph of its own.
        self.vectors: Callable[[], torch.Tensor | None] = lambda: None
        self.choose: Choose = self._all_in_order
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

    def token_embeddings(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of real tokens, without gradients: `[..., h]`."""
        with torch.no_grad():
            found: torch.Tensor = self.causal.get_input_embeddings()(ids)
        return found

    def _all_in_order(self, batch: Batch) -> torch.Tensor:
        vectors = self.vectors()
        assert vectors is not None
        return torch.arange(len(vectors), device=vectors.device).expand(len(batch.input_ids), -1)

    # ------------------------------------------------------------------ rows with virtual tokens

    def with_prompt(self, batch: Batch) -> Batch:
        """The batch with virtual tokens between each row's padding and its first token."""
        if self.vectors() is None:
            return batch
        rows, tokens = batch.input_ids.shape
        ids = self.choose(batch) + self.first_id  # [r, p]
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
        vectors = self.vectors()
        if vectors is None:
            return list(rows)
        batches = (collate([row], 0).to(vectors.device) for row in rows)
        front = [(self.choose(batch)[0] + self.first_id).tolist() for batch in batches]
        return [replace(row, input_ids=(*ids, *row.input_ids)) for ids, row in zip(front, rows, strict=True)]

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
        if self.vectors() is None:
            return None
        self._virtual = ids - self.first_id
        return (torch.where(self._virtual >= 0, 0, ids),)

    def _after(self, module: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        vectors = self.vectors()
        if self._virtual is None or vectors is None:
            return None
        found = vectors.to(output.dtype)[self._virtual.clamp(min=0)]
        virtual = (self._virtual >= 0)[..., None]
        self._virtual = None
        return torch.where(virtual, found, output)


def _as_batch(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> Batch:
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return Batch(input_ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), torch.full_like(input_ids, IGNORED))
