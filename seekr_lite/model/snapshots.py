"""What is trained, as an interface: a student that learns task after task, and a frozen copy of it after each.

`lora.py` has LoRA, `soft_prompts.py` soft prompts; learner and methods know this interface alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from seekr_lite.model.base import Base
from seekr_lite.recipe.recipe import AdapterSettings

PROMPT_EMBEDDINGS, PROMPT_KEYS = "prompt_embeddings", "prompt_keys"


@dataclass(frozen=True)
class Snapshot:
    """A frozen copy on the host, after a task: names -> tensors.

    A LoRA adapter: PEFT's names, lora_A `[rank, in]`, lora_B `[out, rank]`. A soft prompt: `prompt_embeddings`
    `[rank, hidden]`, whose rank is its number of vectors, and what goes with it.
    """

    weights: dict[str, torch.Tensor]
    rank: int
    alpha: float

    @property
    def is_prompt(self) -> bool:
        return PROMPT_EMBEDDINGS in self.weights

    @property
    def is_prompt_pool(self) -> bool:
        """Whether each row takes some of the vectors alone, by keys of theirs: a form that PEFT does not know."""
        return PROMPT_KEYS in self.weights


class SnapshotSequence(ABC):
    """The student, and the snapshots of finished tasks.

    student: its parameters by name, the same objects for every task, so an optimizer never loses them. grows: whether
    each snapshot is larger than the one before. model: the base with what is trained on it.
    """

    base: Base
    settings: AdapterSettings
    seed: int
    snapshots: list[Snapshot]
    student: dict[str, torch.nn.Parameter]
    grows: bool
    model: Any

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """The student's parameters."""
        return list(self.student.values())

    @abstractmethod
    def start_task(self, from_previous: bool = True) -> None:
        """Prepares the student for the next task; `from_previous`: on from the last one."""

    @abstractmethod
    def finish_task(self) -> Snapshot:
        """Freezes what the student has become: a host copy that joins the sequence."""

    @abstractmethod
    def acting_as(self, index: int | None, slot_rank: int | None = None) -> AbstractContextManager[None]:
        """Inside the block the model is the model after task `index`, or the bare base for None: eval mode, no
        gradients. The student, its `requires_grad` and its gradients are as before afterwards.

        `slot_rank` asks for a larger slot than the snapshot needs, so that one slot serves teachers of several ranks.
        """

    @abstractmethod
    def become(self, snapshot: Snapshot) -> None:
        """From now on the model is that of a snapshot, which need not be of the sequence: to be used, not trained."""

    def takes(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot, of whatever rank, belongs to this base and to what is trained on it here."""

        def sizes(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
            """Those that the base decides, by name: of lora_B `[out, rank]` the first, of all others but the first."""
            return {name: one.shape[:1] if ".lora_B." in name else one.shape[1:] for name, one in weights.items()}

        return sizes(snapshot.weights) == sizes(self.student)

    @property
    def teacher_rank(self) -> int:
        """The rank of the largest snapshot: a slot of this rank serves every teacher."""
        return max((snapshot.rank for snapshot in self.snapshots), default=self.settings.rank)

    @abstractmethod
    def config_of(self, snapshot: Snapshot) -> dict[str, Any]:
        """`adapter_config.json` of a snapshot."""
