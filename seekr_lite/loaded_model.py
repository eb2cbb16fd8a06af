"""A model of a run, ready to generate: the base with the adapter after a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seekr_lite.recipe import Recipe
    from seekr_lite.run_folder import RunFolder


@dataclass
class LoadedModel:
    """`model` is a plain PEFT model, `tokenizer` its tokenizer; `generate` answers prompts as the run did."""

    model: Any
    tokenizer: Any
    recipe: Recipe

    @classmethod
    def of_run(cls, folder: RunFolder, after: str | None) -> LoadedModel:
        """Raises `UserError` where the run has learned no such task, or the adapter is damaged."""
        from peft import PeftModel

        from seekr_lite.base import load_base

        adapter = folder.trusted_adapter_folder(folder.stage_after(after))
        recipe = folder.recipe()
        base = load_base(recipe.base)
        model = PeftModel.from_pretrained(base.model, str(adapter))
        return cls(model.eval(), base.tokenizer, recipe)

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
