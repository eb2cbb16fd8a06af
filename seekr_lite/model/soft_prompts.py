"""The sequence of soft prompts on one frozen base: `adapters.py` for vectors in front of the rows in place of LoRA.

A prompt that goes on from task to task (`l2p`, `lfpt5`) is one set of vectors. A progressive one (`pp`) starts afresh
with each task, in front of the frozen ones of all tasks before. A snapshot is a prompt-tuning adapter of PEFT
(`prompt_embeddings` `[v, h]`), but where a method chooses among the vectors row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from seekr_lite.common.modes import eval_mode
from seekr_lite.common.seeds import seed_for
from seekr_lite.model.snapshots import Snapshot, SnapshotSequence
from seekr_lite.soft_prompt import PromptedModel

if TYPE_CHECKING:
    from seekr_lite.model.base import Base
    from seekr_lite.recipe.recipe import AdapterSettings

EMBEDDINGS, GENERATION = "prompt_embeddings", "generation_embedding"


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
        self.progressive = progressive
        self.snapshots: list[Snapshot] = []
        self.model: PromptedModel = PromptedModel(base.model)
        self._student: dict[str, torch.nn.Parameter] = {}
        self.add(EMBEDDINGS, tokens)
        if generation:
            self.add(GENERATION, 1)
        self._frozen: torch.Tensor | None = None  # of the tasks before [v, h]
        self._acting: dict[str, torch.Tensor] | None = None  # a snapshot; None: the student
        self._bare = False
        self._generating = False
        self.model.read = self._vectors

    @property
    def student(self) -> dict[str, torch.nn.Parameter]:
        return dict(self._student)

    @property
    def grows(self) -> bool:
        return self.progressive

    @property
    def teacher_rank(self) -> int:
        """As large as the prompt is: there is no slot."""
        return len(self._student[EMBEDDINGS])

    def start_task(self, from_previous: bool = True) -> None:
        index = len(self.snapshots)
        if index and from_previous and not self.progressive:
            self._write(self.snapshots[-1].weights)
        else:
            self._initialise(index)
        self._frozen = None
        if self.progressive and index:
            self._frozen = self.snapshots[-1].weights[EMBEDDINGS].to(self.base.device)

    def finish_task(self) -> Snapshot:
        weights = {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in self._student.items()}
        if self._frozen is not None:
            weights[EMBEDDINGS] = torch.cat([weights[EMBEDDINGS], self._frozen.to("cpu", weights[EMBEDDINGS].dtype)])
        snapshot = Snapshot(weights, len(weights[EMBEDDINGS]), 1.0)
        self.snapshots.append(snapshot)
        return snapshot

    @contextmanager
    def acting_as(self, index: int | None, slot_rank: int | None = None) -> Iterator[None]:
        before = (self._acting, self._bare)
        try:
            if index is not None:
                self.become(self.snapshots[index])
            self._bare = index is None
            with torch.no_grad(), eval_mode(self.model.modules()):
                yield
        finally:
            self._acting, self._bare = before

    def takes(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot has what the student has, of vectors of the same size."""
        shapes = {name: tensor.shape[1:] for name, tensor in snapshot.weights.items()}
        return shapes == {name: parameter.shape[1:] for name, parameter in self._student.items()}

    def become(self, snapshot: Snapshot) -> None:
        """From now on the model is that of a snapshot."""
        self._acting = {name: tensor.to(self.base.device) for name, tensor in snapshot.weights.items()}

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Inside the block the prompt has the vector after which the model writes rows of its task."""
        self._generating = True
        try:
            yield
        finally:
            self._generating = False

    def acting_weights(self) -> dict[str, torch.Tensor]:
        """What acts now, by name: the student's parameters, or a snapshot on the device."""
        return dict(self._student) if self._acting is None else self._acting

    def config_of(self, snapshot: Snapshot) -> dict[str, Any]:
        """`adapter_config.json` of a prompt-tuning adapter of PEFT."""
        return prompt_config(self.base, snapshot)

    # ------------------------------------------------------------------ vectors

    def add(self, name: str, count: int) -> None:
        """Makes vectors a part of the student."""
        embeddings: Any = self.base.model.get_input_embeddings()
        shape, dtype = (count, int(embeddings.weight.shape[1])), getattr(torch, self.settings.dtype)
        self._student[name] = torch.nn.Parameter(torch.zeros(shape, dtype=dtype, device=self.base.device))
        self.model.register_parameter(name, self._student[name])

    def _vectors(self) -> torch.Tensor | None:
        """What acts now: `[v, h]`."""
        if self._bare:
            return None
        weights = self.acting_weights()
        parts = [weights[EMBEDDINGS]]
        if self._acting is None and self._frozen is not None:
            parts.append(self._frozen)
        if self._generating:
            parts.append(weights[GENERATION])
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    @torch.no_grad()
    def _write(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._student.items():
            parameter.copy_(weights[name])

    @torch.no_grad()
    def _initialise(self, index: int) -> None:
        """Embeddings of tokens drawn at random (Lester et al. 2021, arXiv 2104.08691), on the host."""
        generator = torch.Generator().manual_seed(seed_for(self.seed, "prompt", index))
        for name, parameter in sorted(self._student.items()):
            parameter.copy_(self.initial(name, parameter, generator))

    def initial(self, name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Where a parameter starts: `[v, h]`."""
        drawn = torch.randint(self.model.first_id, (len(parameter),), generator=generator)
        return self.model.token_embeddings(drawn.to(self.base.device))


def prompt_config(base: Base, snapshot: Snapshot) -> dict[str, Any]:
    """The configuration of PEFT's prompt tuning, with sorted keys."""
    text = base.model.config.get_text_config()
    return {
        "base_model_name_or_path": base.name_or_path,
        "inference_mode": True,
        "num_attention_heads": text.num_attention_heads,
        "num_layers": text.num_hidden_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": snapshot.rank,
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "revision": base.revision,
        "task_type": "CAUSAL_LM",
        "token_dim": snapshot.weights[EMBEDDINGS].shape[1],
    }
