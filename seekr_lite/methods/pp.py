"""PP: progressive prompts (Razdaibiedina et al. 2023, arXiv 2301.12314): a soft prompt per task in front of the frozen
ones of all tasks before.

A task is answered behind the prompts that were there when it was learned, so it cannot be forgotten, and it has to be
known which task a row is of (as with `isolated`). Costs `tokens` vectors a task, and as many tokens more in every row:
task k's rows begin with k `tokens` virtual ones. No old row is kept. The paper's residual MLP around a prompt is left
out.
"""

from __future__ import annotations

from typing import ClassVar

from seekr_lite.methods.method import Method
from seekr_lite.model.base import Base
from seekr_lite.model.soft_prompts import PromptSequence
from seekr_lite.recipe.recipe import Recipe


class ProgressivePrompts(Method):
    """L = cross-entropy of the answer to [P_k, ..., P_1, prompt], for P_k alone; task t keeps [P_t, ..., P_1]."""

    name = "pp"
    summary = "a soft prompt per task in front of the frozen earlier ones, routed by the task's name"
    growth = "stack"
    routed_by_task = True
    default_options: ClassVar = {"tokens": 10, "learning_rate_factor": 30.0}
    option_ranges: ClassVar = {"tokens": (1, 10_000), "learning_rate_factor": (1e-6, 1e6)}

    @classmethod
    def make_adapters(cls, base: Base, recipe: Recipe) -> PromptSequence:
        tokens = int(cls.read_options(recipe.method)["tokens"])
        return PromptSequence(base, recipe.adapter, recipe.run.seed, tokens, progressive=True)

    @classmethod
    def extra_tokens(cls, recipe: Recipe) -> int:
        return int(cls.read_options(recipe.method)["tokens"]) * max(1, len(recipe.data.tasks))
