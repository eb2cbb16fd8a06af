"""The interface of a continual-learning method: a few questions; the learner does the rest.

1. `prepare_task`: what to prepare before a task;
2. `new_task_loss`: the loss of a micro-batch of the new task;
3. `replay_loss`: the loss of a micro-batch of old rows (or none);
4. `finish_task`: what to keep after a task.

A method can also look at all rows of a task once more when it ends (`review_task`), keep other rows than those that
were drawn (`keep_rows`), and train something else than LoRA (`make_adapters`).

State is tensors and JSON by task (`task_state`, `load_task_state`), so that any method resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

import torch

from seekr_lite.common.errors import UserError, nearest
from seekr_lite.data.batch import Batch
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.data.task import Example
from seekr_lite.methods.replay_memory import ReplayRow
from seekr_lite.model.base import Base
from seekr_lite.model.losses import answer_cross_entropy_sum
from seekr_lite.model.snapshots import SnapshotSequence
from seekr_lite.recipe.recipe import MethodSettings, Recipe

Option = bool | int | float | str


@dataclass(frozen=True)
class LossTerm:
    """A named part of a loss, and its weight in the sum."""

    name: str
    value: torch.Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class StepTotals:
    """What a loss is divided by: label tokens and rows of the whole optimizer step, not of the micro-batch.

    So the loss of a step is the sum over its micro-batches, whatever these are.
    """

    label_tokens: int
    rows: int
    tasks: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ReplayBatch:
    """A micro-batch of old rows; `rows[i]` says which task and sample row i of the batch is."""

    batch: Batch
    rows: Sequence[ReplayRow]


@dataclass(frozen=True)
class TaskState:
    """What a method keeps of a task: tensors for safetensors, and plain values for JSON."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


class Method:
    """A method that trains on new rows only; the others override what they do differently.

    The traits below are asked wherever a method is treated in its own way (learning, planning, testing, reports);
    nothing asks for a method's name.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    replays: ClassVar[bool] = False  # keeps samples of a task, and replays them
    keeps_samples: ClassVar[bool] = False  # keeps them for `finish_task`, and does not replay them
    reviews_rows: ClassVar[bool] = False  # asks for a task's rows when it ends: `review_task`
    joint: ClassVar[bool] = False  # one stage of all tasks
    starts_from_previous: ClassVar[bool] = True  # adapter k goes on from adapter k-1
    growth: ClassVar[Literal["continue", "stack"] | None] = None  # what `adapter.growth` must be; None: either
    routed_by_task: ClassVar[bool] = False  # task t is always answered by adapter t, so its name has to be known
    looks_into_attention: ClassVar[bool] = False  # scores heads when a task ends, and trains inside the tap
    teaches_new_rows: ClassVar[bool] = False  # an old adapter is run on each new row, too
    teaches_old_rows: ClassVar[bool] = False  # and on each old row
    trainings_of_a_new_row: ClassVar[int] = 1  # forward and backward passes in which it learns from one
    state_folder: ClassVar[str | None] = None  # where the run folder keeps `task_state`
    recipe_defaults: ClassVar[Mapping[str, Any]] = {}  # its values of keys of `[method]` where a recipe is silent
    default_options: ClassVar[Mapping[str, Option]] = {}  # settings of its own: `[method] options`
    option_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}  # the least and the largest value of some of them

    def __init__(self, settings: MethodSettings, adapters: SnapshotSequence, seed: int) -> None:
        self.settings = settings
        self.options = self.read_options(settings)
        self.adapters = adapters
        self.seed = seed

    @classmethod
    def read_options(cls, settings: MethodSettings) -> dict[str, Option]:
        """The recipe's `method.options` over the method's defaults. Raises `UserError` for what it does not know."""
        for key, value in settings.options.items():
            if key not in cls.default_options:
                known = cls.default_options
                raise UserError(
                    f'method.options: the method "{cls.name}" has no option {key}{nearest(key, known)}; allowed: '
                    + (", ".join(known) or "none")
                )
            default = cls.default_options[key]
            fits = type(value) is type(default) or (type(default) is float and type(value) is int)
            if not fits:
                raise UserError(f"method.options.{key} = {value!r}: give it a value like its default, {default!r}")
            low, high = cls.option_ranges.get(key, (-inf, inf))
            if not isinstance(value, str) and not low <= value <= high:
                raise UserError(f"method.options.{key} = {value!r}: allowed are {low:g} to {high:g}")
        return {**cls.default_options, **settings.options}

    @classmethod
    def make_adapters(cls, base: Base, recipe: Recipe) -> SnapshotSequence:
        """What is trained on the base, by default LoRA. Raises `UserError` where the base has nothing to train."""
        from seekr_lite.model.lora import AdapterSequence

        growth = cls.growth or recipe.adapter.growth
        return AdapterSequence(base, recipe.adapter.model_copy(update={"growth": growth}), recipe.run.seed)

    @property
    def learning_rate_factor(self) -> float:
        """What the recipe's learning rate is multiplied by: soft prompts need a far larger one than LoRA."""
        return float(self.options.get("learning_rate_factor", 1.0))

    @classmethod
    def extra_tokens(cls, recipe: Recipe) -> int:
        """Tokens that the method puts in front of a row, at most."""
        return 0

    @classmethod
    def copies_on_device(cls, tasks: int) -> float:
        """How many times the student's size it holds on the device while the last of so many tasks is learned."""
        return 0

    @property
    def model(self) -> torch.nn.Module:
        model: torch.nn.Module = self.adapters.model
        return model

    def prepare_task(self, index: int) -> None:
        """Called before task `index` is learned, with the student in place."""

    def new_task_loss(self, batch: Batch, totals: StepTotals) -> list[LossTerm]:
        """Cross-entropy of the answers."""
        return [LossTerm("cross_entropy", answer_cross_entropy_sum(self.model, batch) / totals.label_tokens)]

    def replay_loss(self, replay: ReplayBatch, totals: StepTotals) -> list[LossTerm]:
        """The loss of old rows; called only if `replays`, and then needed (`registry.check_traits`)."""
        return []

    def review_task(self, index: int, rows: Sequence[EncodedExample]) -> None:
        """Called with the rows of task `index` when it is learned, the student in place, if `reviews_rows`."""

    def keep_rows(self, index: int, chosen: Sequence[Example]) -> Sequence[Example]:
        """The memory of task `index`, when its snapshot is taken: the rows drawn for it, or others in their place."""
        return chosen

    def finish_task(self, index: int, samples: Sequence[EncodedExample]) -> None:
        """Called when snapshot `index` is taken; `samples` is the memory of that task."""

    def adapter_for(self, task: int, after: int) -> int | None:
        """The adapter that answers task `task` after task `after` was learned; None is the bare base."""
        if self.routed_by_task:
            return task if task <= after else None
        return 0 if self.joint else after

    def task_state(self, index: int) -> TaskState | None:
        """What is kept of task `index`, for the run folder."""
        return None

    def load_task_state(self, index: int, state: TaskState) -> None:
        """Takes up what `task_state` gave, in the order of tasks."""
