"""All models of a run on one base, which is loaded once, when it is first needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import UserError
from seekr_lite.runs.folder import Stage

if TYPE_CHECKING:
    import torch

    from seekr_lite.model.base import Base
    from seekr_lite.model.snapshots import Snapshot, SnapshotSequence
    from seekr_lite.recipe.recipe import Recipe
    from seekr_lite.runs.folder import RunFolder


class RunModels:
    """The bare base and the adapters of a run; one of them acts at a time."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._loaded: Stage = None  # the one snapshot that is in memory

    @cached_property
    def _adapters(self) -> SnapshotSequence:
        from seekr_lite.methods.registry import method_class
        from seekr_lite.model.base import load_base

        recipe = self.folder.recipe()
        return method_class(recipe.method.name).make_adapters(load_base(recipe.base), recipe)

    @property
    def tokenizer(self) -> Any:
        return self._adapters.base.tokenizer

    @contextmanager
    def acting(self, stage: Stage) -> Iterator[Any]:
        """Inside the block, the model after a stage, or the bare base; in eval mode, without gradients.

        Raises:
            UserError: the base cannot be loaded, or the adapter is damaged.
        """
        if stage is not None and stage != self._loaded:
            snapshot = self.folder.load_snapshot(stage)
            self._check(snapshot)
            self._adapters.snapshots = [snapshot]
            self._loaded = stage
        with self._adapters.acting_as(None if stage is None else 0):
            yield self._adapters.model

    def _check(self, snapshot: Snapshot) -> None:
        """Raises `UserError` where the snapshot is none of this base: other layers, or layers of other sizes."""
        here = {name: _outer(name, parameter) for name, parameter in self._adapters.student.items()}
        if here != {name: _outer(name, tensor) for name, tensor in snapshot.weights.items()}:
            raise UserError(f"{self.folder.path}: an adapter of this run does not belong to its base")


def _outer(name: str, tensor: torch.Tensor) -> int:
    """The size of the base's side of an adapter's matrix, or of a prompt; the other side is the rank."""
    return tensor.shape[0 if ".lora_B." in name else 1] if tensor.dim() == 2 else -1


@dataclass
class LoadedModel:
    """`model` is a plain PEFT model (of a soft prompt: `soft_prompt.PromptedModel`), `tokenizer` its tokenizer;
    `generate` answers prompts as the run did."""

    model: Any
    tokenizer: Any
    recipe: Recipe

    @classmethod
    def of_run(cls, folder: RunFolder, after: str | None) -> LoadedModel:
        """Raises `UserError` where the run has learned no such task, or the adapter is damaged."""
        from seekr_lite.model.base import load_base

        snapshot = folder.load_snapshot(folder.stage_after(after))
        recipe = folder.recipe()
        base = load_base(recipe.base)
        return cls(with_snapshot(base, snapshot, recipe).eval(), base.tokenizer, recipe)

    def generate(self, prompt: str, max_new_tokens: int | None = None) -> str:
        """The greedy answer to a prompt."""
        from seekr_lite.data.encoding import encode_prompts
        from seekr_lite.evaluation.generate import generate

        data = self.recipe.data
        encoded = encode_prompts(
            self.tokenizer,
            [prompt],
            max_prompt_tokens=data.max_prompt_tokens,
            chat_template=data.chat_template,
        )
        limit = max_new_tokens or data.max_answer_tokens
        return next(generate(self.model, self.tokenizer, encoded, limit, 1, known={}))[0]


def with_snapshot(base: Base, snapshot: Snapshot, recipe: Recipe) -> Any:
    """The base with a LoRA adapter or a soft prompt. Raises `UserError` where it does not belong to the base."""
    return with_prompt(base, snapshot, recipe) if snapshot.is_prompt else with_adapter(base, snapshot)


def with_prompt(base: Base, snapshot: Snapshot, recipe: Recipe) -> Any:
    """The base with a snapshot of a soft prompt in front of every row.

    Raises:
        UserError: the prompt does not belong to this base.
    """
    from seekr_lite.methods.registry import method_class
    from seekr_lite.model.soft_prompts import PromptSequence

    adapters = method_class(recipe.method.name).make_adapters(base, recipe)
    if not isinstance(adapters, PromptSequence) or not adapters.takes(snapshot):
        raise UserError(f"the soft prompt does not belong to the base {base.name_or_path}, or to its method")
    adapters.become(snapshot)
    return adapters.model


def with_adapter(base: Base, snapshot: Snapshot) -> Any:
    """The base with a snapshot as its only adapter: what PEFT makes of the snapshot's folder.

    PEFT's reader is not used: a folder's `adapter_config.json` can make it import modules and read other files.

    Raises:
        UserError: the adapter does not belong to this base.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    names = [name.removeprefix("base_model.model.").partition(".lora_")[0] for name in snapshot.weights]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=snapshot.rank,
        lora_alpha=snapshot.alpha,
        target_modules=sorted(set(names)),
        inference_mode=True,
    )
    try:
        model = get_peft_model(base.model, config)
        found = set_peft_model_state_dict(model, snapshot.weights)
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"the adapter does not belong to the base {base.name_or_path}: {error}") from None
    missing = [name for name in found.missing_keys if ".lora_" in name]
    if missing or found.unexpected_keys:
        strange = (missing or found.unexpected_keys)[0]
        raise UserError(f"the adapter does not belong to the base {base.name_or_path}: see {strange}")
    return model
