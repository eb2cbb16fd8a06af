"""L2P: learning to prompt (Wang et al. 2022, arXiv 2112.08654): a pool of soft prompts, of which each row takes those
whose keys are nearest to it.

Nobody needs to know which task a row is of. A row's query is the mean embedding of its prompt's tokens in the frozen
base. Costs `pool` prompts of `length` vectors and a key each, for all tasks together, and `top` x `length` tokens more
in every row. No old row is kept.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from seekr_lite.common.errors import UserError
from seekr_lite.data.batch import IGNORED, Batch
from seekr_lite.methods.method import LossTerm, Method, StepTotals
from seekr_lite.model.base import Base
from seekr_lite.model.snapshots import PROMPT_KEYS, Snapshot
from seekr_lite.model.soft_prompts import PromptSequence
from seekr_lite.recipe.recipe import Recipe


class PromptPool(PromptSequence):
    """The pool: prompts `[pool length, h]`, keys `[pool, h]`.

    Legend: r rows, N prompts of the pool, h hidden size.
    """

    def __init__(self, base: Base, recipe: Recipe, pool: int, length: int, top: int) -> None:
        super().__init__(base, recipe.adapter, recipe.run.seed, tokens=pool * length)
        self.pool, self.length, self.top = pool, length, top
        self.add(PROMPT_KEYS, pool)
        self.model.choose = self.choose

    def similarities(self, batch: Batch) -> torch.Tensor:
        """Cosine of each row's query and each key: `[r, N]`."""
        asked = (batch.attention_mask.bool() & (batch.labels == IGNORED))[..., None]  # the prompt, without the answer
        embeddings = self.model.token_embeddings(batch.input_ids).float()
        query = (embeddings * asked).sum(1) / asked.sum(1)
        return F.cosine_similarity(query[:, None], self.acting[PROMPT_KEYS].float(), dim=-1)

    def choose(self, batch: Batch) -> torch.Tensor:
        """Which vectors go in front of each row: those of the `top` nearest prompts, `[r, top length]`."""
        nearest = self.similarities(batch).topk(self.top).indices
        within = torch.arange(self.length, device=nearest.device)
        return (nearest[..., None] * self.length + within).flatten(1)

    def initial(self, name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if name == PROMPT_KEYS:
            return torch.rand(parameter.shape, generator=generator) * 2 - 1
        return super().initial(name, parameter, generator)

    def config_of(self, snapshot: Snapshot) -> dict[str, Any]:
        """Our own form: PEFT knows no prompts that are chosen row by row."""
        own = {"pool": self.pool, "length": self.length, "top": self.top, "peft_type": "SEEKR_LITE_PROMPT_POOL"}
        return dict(sorted((super().config_of(snapshot) | own).items()))


class LearningToPrompt(Method):
    """L = cross-entropy of the answer to [prompts chosen for x, x] + key_weight * sum over their keys k of
    (1 - cos(q(x), k))."""

    name = "l2p"
    summary = "a pool of soft prompts, chosen for each row by the nearest keys"
    default_options: ClassVar = {
        "pool": 10,
        "length": 5,
        "top": 4,
        "key_weight": 0.5,
        "learning_rate_factor": 3.0,
    }
    option_ranges: ClassVar = {
        "pool": (1, 10_000),
        "length": (1, 10_000),
        "top": (1, 10_000),
        "key_weight": (0, 1e9),
        "learning_rate_factor": (1e-6, 1e6),
    }
    adapters: PromptPool

    @classmethod
    def make_adapters(cls, base: Base, recipe: Recipe) -> PromptPool:
        pool, length, top = cls._sizes(recipe)
        return PromptPool(base, recipe, pool, length, top)

    @classmethod
    def extra_tokens(cls, recipe: Recipe) -> int:
        _, length, top = cls._sizes(recipe)
        return length * top

    @classmethod
    def _sizes(cls, recipe: Recipe) -> tuple[int, int, int]:
        options = cls.read_options(recipe.method)
        pool, length, top = int(options["pool"]), int(options["length"]), int(options["top"])
        if top > pool:
            raise UserError(f"method.options.top = {top}: at most as many as the pool has prompts, which are {pool}")
        return pool, length, top

    def new_task_loss(self, batch: Batch, totals: StepTotals) -> list[LossTerm]:
        nearest = self.adapters.similarities(batch).topk(self.adapters.top).values
        distance = (1 - nearest).sum() / totals.rows
        return [
            *super().new_task_loss(batch, totals),
            LossTerm("key_distance", distance, float(self.options["key_weight"])),
        ]
