"""The models of a run, put on its base as the run itself does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.evaluation.generate import answer_prompt
from seekr_lite.methods.registry import method_class
from seekr_lite.model.base import Base, load_base
from seekr_lite.model.snapshots import Snapshot, SnapshotSequence
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.stages import Stage


class RunModels:
    """The bare base and the adapters of a run, one of which acts at a time. The base is loaded once, when needed."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._loaded: Stage = None  # the one snapshot that is in memory

    @cached_property
    def adapters(self) -> SnapshotSequence:
        recipe = self.folder.recipe()
        return method_class(recipe.method.name).make_adapters(load_base(recipe.base), recipe)

    @property
    def tokenizer(self) -> Any:
        return self.adapters.base.tokenizer

    @contextmanager
    def acting(self, stage: Stage) -> Iterator[Any]:
        """Inside the block, the model after a stage, or the bare base; in eval mode, without gradients.

        Raises:
            UserError: the base cannot be loaded, or the adapter is damaged.
        """
        if stage is not None and stage != self._loaded:
            snapshot = self.folder.load_snapshot(stage)
            _refuse_stranger(self.adapters, snapshot)
            self.adapters.snapshots = [snapshot]
            self._loaded = stage
        with self.adapters.acting_as(None if stage is None else 0):
            yield self.adapters.model


@dataclass
class LoadedModel:
    """`model` is a PEFT model (of a soft prompt: `soft_prompts.PromptedModel`), `tokenizer` its tokenizer; `generate`
    answers prompts as the run did."""

    model: Any
    tokenizer: Any
    recipe: Recipe

    @classmethod
    def of_run(cls, folder: RunFolder, after: str | None) -> LoadedModel:
        """Raises `UserError` where the run has learned no such task, or the adapter is damaged."""
        snapshot = folder.load_snapshot(folder.stage_after(after))
        recipe = folder.recipe()
        base = load_base(recipe.base)
        return cls(with_snapshot(base, snapshot, recipe), base.tokenizer, recipe)

    def generate(self, prompt: str, max_new_tokens: int | None = None) -> str:
        """The greedy answer to a prompt."""
        return answer_prompt(self.model, self.tokenizer, prompt, self.recipe.data, max_new_tokens)


def with_snapshot(base: Base, snapshot: Snapshot, recipe: Recipe) -> Any:
    """The base with a LoRA adapter or a soft prompt, as the run computes it; in eval mode.

    PEFT's reader is not used: a folder's `adapter_config.json` can make it import modules and read other files.

    Raises:
        UserError: the snapshot does not belong to this base, or to the recipe's method.
    """
    adapters = method_class(recipe.method.name).make_adapters(base, recipe)
    _refuse_stranger(adapters, snapshot)
    adapters.become(snapshot)
    return adapters.model.eval()


def _refuse_stranger(adapters: SnapshotSequence, snapshot: Snapshot) -> None:
    """Raises `UserError` where a snapshot is none of this base: other layers, or layers of other sizes."""
    if not adapters.takes(snapshot):
        raise UserError(f"an adapter of this run does not belong to its base {adapters.base.name_or_path}")
