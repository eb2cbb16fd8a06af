"""SEEKR: selective attention-guided knowledge retention (He et al., EMNLP 2024, arXiv 2411.06171).

Old rows are held by the attention maps of the heads that mattered most when their task ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seekr_lite.attention.divergence import attention_divergence
from seekr_lite.attention.importance import HeadScores, accumulated_importance
from seekr_lite.attention.maps import NO_ROW, MapShape
from seekr_lite.attention.selection import Head, choose_heads, resolve_budgets
from seekr_lite.attention.tap import HeadPairs
from seekr_lite.attention.tappable import check_tappable
from seekr_lite.common.seeds import generator_for, seed_for
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.methods.derpp import DarkExperienceReplay, LayerHeads, LayerPairs
from seekr_lite.methods.head_scoring import score_heads
from seekr_lite.methods.method import LossTerm, ReplayBatch, StepTotals, TaskState
from seekr_lite.model.snapshots import SnapshotSequence
from seekr_lite.recipe.method_names import HEADS_FOLDER
from seekr_lite.recipe.recipe import MethodSettings


class Seekr(DarkExperienceReplay):
    """L_replay = DER++'s + attention_weight * mean over layers of KL(teacher map, student map) of chosen heads."""

    name = "seekr"
    summary = "DER++, and distillation of the attention maps of the heads that matter most"
    looks_into_attention = True
    state_folder = HEADS_FOLDER

    def __init__(self, settings: MethodSettings, adapters: SnapshotSequence, seed: int) -> None:
        super().__init__(settings, adapters, seed)
        check_tappable(adapters.base.model)
        config = adapters.base.model.config.get_text_config()
        self.shape = (int(config.num_hidden_layers), int(config.num_attention_heads))
        self.budgets = resolve_budgets(settings, *self.shape)
        self.scores: list[HeadScores] = []
        self.chosen: list[tuple[Head, ...]] = []  # by task; as chosen when the task ended

    # ------------------------------------------------------------------ the loss

    def watched_heads(self, replay: ReplayBatch) -> LayerPairs:
        queries = self._query_rows(replay)
        by_layer: dict[int, list[tuple[int, int]]] = {}
        for index, row in enumerate(replay.rows):
            for layer, head in self.chosen[row.task]:
                by_layer.setdefault(layer, []).append((index, head))
        watched: LayerPairs = {}
        for layer, pairs in sorted(by_layer.items()):
            rows, heads = torch.tensor(pairs).unbind(1)
            watched[layer] = HeadPairs(rows, heads, None if queries is None else queries[rows])
        return watched

    def attention_term(
        self,
        replay: ReplayBatch,
        totals: StepTotals,
        pairs: LayerPairs,
        student: LayerHeads,
        teacher: LayerHeads,
    ) -> LossTerm:
        """SEEKR, eq. 3-4, in the order of means of the official code.

        A layer's term is the mean over a row's chosen heads and query rows, then over all rows of the step (a row
        that holds no head there counts 0); the loss is the mean over the layers that some row of the step holds.
        """
        layers = {layer for task in totals.tasks for layer, _ in self.chosen[task]}
        device, all_padding = replay.batch.labels.device, replay.batch.padding
        total = replay.batch.labels.new_zeros((), dtype=torch.float32)
        for layer, chosen in pairs.items():
            own, old = student[layer], teacher[layer]
            padding = all_padding[chosen.rows.to(device)]
            if chosen.queries is None:
                shape = MapShape.of_all_rows(padding, own.key.shape[1], own.scale, own.window)
            else:
                shape = MapShape(padding, chosen.queries.to(device), own.scale, own.window)
            divergence = attention_divergence(own.query, own.key, old.query, old.key, shape)  # [pairs]
            heads_of_row = torch.bincount(chosen.rows, minlength=len(replay.rows))
            total = total + (divergence / heads_of_row[chosen.rows].to(device)).sum()
        return LossTerm("attention_distillation", total / (totals.rows * len(layers)), self.settings.attention_weight)

    def _query_rows(self, replay: ReplayBatch) -> torch.Tensor | None:
        """The query rows of each batch row that are compared: `[r, m]`, NO_ROW where a row has fewer; None: all."""
        rows = [self._queries(row.task, row.sample, len(row.encoded.input_ids)) for row in replay.rows]
        lengths = [len(row.encoded.input_ids) for row in replay.rows]
        if all(chosen is None for chosen in rows):
            return None
        listed = [chosen or list(range(length)) for chosen, length in zip(rows, lengths, strict=True)]
        table = torch.full((len(rows), max(map(len, listed))), NO_ROW)
        for index, chosen in enumerate(listed):
            padding = replay.batch.labels.shape[1] - lengths[index]
            table[index, : len(chosen)] = torch.tensor(chosen) + padding
        return table

    def _queries(self, task: int, sample: int, tokens: int) -> list[int] | None:
        """The compared query rows of a sample, counted from its first real token, drawn once and for all; None: all."""
        if self.settings.query_budget == "all" or self.settings.query_budget >= tokens:
            return None
        return sorted(
            generator_for(self.seed, "queries", task, sample).sample(range(tokens), self.settings.query_budget)
        )

    # ------------------------------------------------------------------ the choice

    def finish_task(self, index: int, samples: Sequence[EncodedExample]) -> None:
        before = index - 1 if index > 0 else None
        queries = [self._queries(index, sample, len(row.input_ids)) for sample, row in enumerate(samples)]
        sensitivity, forgettability = score_heads(self.adapters, samples, before, index, queries)
        sensitivities = [*(scores.sensitivity for scores in self.scores), sensitivity]
        forgettabilities = [*(scores.forgettability for scores in self.scores), forgettability]
        importance = accumulated_importance(sensitivities, forgettabilities, self.settings.accumulate)
        self.scores.append(HeadScores(sensitivity, forgettability, importance))
        self.chosen.append(self._choose(index, sensitivities, forgettabilities, importance))

    def _choose(
        self,
        index: int,
        sensitivities: list[torch.Tensor],
        forgettabilities: list[torch.Tensor],
        importance: torch.Tensor,
    ) -> tuple[Head, ...]:
        layers, heads = self.shape
        match self.settings.selection:
            case "all":
                return tuple((layer, head) for layer in range(layers) for head in range(heads))
            case "sensitivity":
                scores = torch.stack(sensitivities).sum(0)
            case "forgettability":
                scores = torch.stack(forgettabilities).sum(0)
            case "random":
                generator = torch.Generator().manual_seed(seed_for(self.seed, "heads", index))
                scores = torch.rand(layers, heads, generator=generator)
            case _:
                scores = importance
        return choose_heads(scores, *self.budgets)

    # ------------------------------------------------------------------ state

    def task_state(self, index: int) -> TaskState:
        scores = self.scores[index]
        return TaskState(
            tensors={
                "sensitivity": scores.sensitivity.contiguous(),
                "forgettability": scores.forgettability.contiguous(),
                "importance": scores.importance.contiguous(),
            },
            values={"heads": [list(head) for head in self.chosen[index]]},
        )

    def load_task_state(self, index: int, state: TaskState) -> None:
        tensors = state.tensors
        self.scores[index:] = [HeadScores(tensors["sensitivity"], tensors["forgettability"], tensors["importance"])]
        self.chosen[index:] = [tuple((int(layer), int(head)) for layer, head in state.values["heads"])]


class PublishedSeekr(Seekr):
    """SEEKR as published: old rows are seen once an epoch, in the steps of new ones; attention_weight 1000.

    The class is the same; the recipe's defaults are others (`method_defaults.py`).
    """

    name = "seekr-paper"
    summary = "SEEKR with the paper's schedule and attention weight"
