"""A model of a run, ready to generate: the base with the adapter after a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import UserError

if TYPE_CHECKING:
    from seekr_lite.model.base import Base
    from seekr_lite.model.snapshots import Snapshot
    from seekr_lite.recipe.recipe import Recipe
    from seekr_lite.runs.folder import RunFolder


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
