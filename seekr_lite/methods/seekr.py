"""SEEKR: selective attention-guided knowledge retention (He et al., EMNLP 2024, arXiv 2411.06171).

Old rows are held by the attention maps of the heads that mattered most when their task ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from seekr_lite.attention.divergence import attention_divergence
from seekr_lite.attention.importance import HeadScores, accumulated_importance
from seekr_lite.attention.maps import NO_ROW
from seekr_lite.attention.recording import HeadPairs, HeadRecorder, RecordedHeads, RowsRecorder
from seekr_lite.attention.selection import Head, choose_heads, resolve_budgets
from seekr_lite.attention.tappable import check_tappable
from seekr_lite.common.seeds import generator_for, seed_for
from seekr_lite.data.batch import Batch
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.methods.derpp import DarkExperienceReplay
from seekr_lite.methods.head_scoring import head_forgettability, head_sensitivity
from seekr_lite.methods.method import LossTerm, ReplayBatch, StepTotals, TaskState
from seekr_lite.model.answer_states import AnswerStates, answer_span, answer_states
from seekr_lite.model.snapshots import SnapshotSequence
from seekr_lite.recipe.method_names import DEFAULTS
from seekr_lite.recipe.recipe import MethodSettings


class Seekr(DarkExperienceReplay):
    """L_replay = DER++'s + attention_weight * mean over layers of KL(teacher map, student map) of chosen heads."""

    name = "seekr"
    summary = "DER++, and distillation of the attention maps of the heads that matter most"
    looks_into_attention = True
    state_folder = "heads"
    recipe_defaults = DEFAULTS["seekr"]

    def __init__(self, settings: MethodSettings, adapters: SnapshotSequence, seed: int) -> None:
        super().__init__(settings, adapters, seed)
        check_tappable(adapters.base.model)  # now, not only when the first task has been learned
        config = adapters.base.model.config.get_text_config()
        self.shape = (int(config.num_hidden_layers), int(config.num_attention_heads))
        self.budgets = resolve_budgets(settings, *self.shape)
        self.scores: list[HeadScores] = []
        self.chosen: list[tuple[Head, ...]] = []  # by task; as chosen when the task ended

    # ------------------------------------------------------------------ the loss

    def replay_loss(self, replay: ReplayBatch, totals: StepTotals) -> list[LossTerm]:
        pairs = self.head_pairs(replay)
        if not pairs:
            return super().replay_loss(replay, totals)
        device, positions = replay.batch.labels.device, answer_span(replay.batch) + 1
        old: dict[int, RecordedHeads] = {}  # by layer, of the teachers

        def watched(part: Batch, rows: torch.Tensor) -> AnswerStates:
            return answer_states(self.model, part, RowsRecorder(old, pairs, rows, device), positions)

        teacher = self.teacher_states(replay, watched)
        recorder = HeadRecorder({layer: chosen.to(device) for layer, chosen in pairs.items()})
        student = answer_states(self.model, replay.batch, recorder)
        return [
            *self.answer_terms(replay.batch, totals, student, teacher),
            self.attention_term(replay, totals, pairs, recorder.layers, old),
        ]

    def watched_heads(self, task: int) -> Sequence[Head]:
        """The heads by whose maps the old rows of a task are held: those that were chosen when it ended."""
        return self.chosen[task]

    def attention_term(
        self,
        replay: ReplayBatch,
        totals: StepTotals,
        pairs: Mapping[int, HeadPairs],
        student: Mapping[int, RecordedHeads],
        teacher: Mapping[int, RecordedHeads],
    ) -> LossTerm:
        """SEEKR, eq. 3-4, in the order of means of the official code.

        A layer's term is the mean over a row's watched heads and query rows, then over all rows of the step (a row
        that holds no head there counts 0); the loss is the mean over the layers that some row of the step holds.
        """
        # Of the step, not of this micro-batch: so the terms of its micro-batches add up to the same mean.
        layers = {layer for task in totals.tasks for layer, _ in self.watched_heads(task)}
        device, all_padding = replay.batch.labels.device, replay.batch.padding
        total = replay.batch.labels.new_zeros((), dtype=torch.float32)
        for layer, watched in pairs.items():
            own, old = student[layer], teacher[layer]
            queries = None if watched.queries is None else watched.queries.to(device)
            shape = own.map_shape(all_padding[watched.rows.to(device)], queries)
            divergence = attention_divergence(own.query, own.key, old.query, old.key, shape)  # [pairs]
            heads_of_row = torch.bincount(watched.rows, minlength=len(replay.rows))
            total = total + (divergence / heads_of_row[watched.rows].to(device)).sum()
        return LossTerm("attention_distillation", total / (totals.rows * len(layers)), self.settings.attention_weight)

    def head_pairs(self, replay: ReplayBatch) -> dict[int, HeadPairs]:
        """The watched heads of each row, by layer; on the host, where nobody waits for a GPU to count them."""
        queries = self._query_rows(replay)
        by_layer: dict[int, list[tuple[int, int]]] = {}
        for index, row in enumerate(replay.rows):
            for layer, head in self.watched_heads(row.task):
                by_layer.setdefault(layer, []).append((index, head))
        pairs: dict[int, HeadPairs] = {}
        for layer, found in sorted(by_layer.items()):
            rows, heads = torch.tensor(found).unbind(1)
            pairs[layer] = HeadPairs(rows, heads, None if queries is None else queries[rows])
        return pairs

    def _query_rows(self, replay: ReplayBatch) -> torch.Tensor | None:
        """The query rows of each batch row that are compared: `[r, m]`, NO_ROW where a row has fewer; None: all."""
        lengths = [len(row.encoded.input_ids) for row in replay.rows]
        drawn = [self._queries(row.task, row.sample, length) for row, length in zip(replay.rows, lengths, strict=True)]
        if all(queries is None for queries in drawn):
            return None
        listed = [queries or list(range(length)) for queries, length in zip(drawn, lengths, strict=True)]
        table = torch.full((len(listed), max(map(len, listed))), NO_ROW)
        for row, queries in enumerate(listed):
            table[row, : len(queries)] = torch.tensor(queries) + replay.batch.labels.shape[1] - lengths[row]
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
        sensitivity = head_sensitivity(self.adapters, samples)
        forgettability = head_forgettability(self.adapters, samples, before, index, queries)
        sensitivities = [*(one.sensitivity for one in self.scores), sensitivity]
        forgettabilities = [*(one.forgettability for one in self.scores), forgettability]
        importance = accumulated_importance(sensitivities, forgettabilities, self.settings.accumulate)
        self.scores.append(HeadScores(sensitivity, forgettability, importance))
        self.chosen.append(self._choose(index))

    def _choose(self, index: int) -> tuple[Head, ...]:
        """The heads that hold the rows of the task whose scores came last; all but "seekr" are ablations."""
        layers, heads = self.shape
        match self.settings.selection:
            case "all":
                return tuple((layer, head) for layer in range(layers) for head in range(heads))
            case "sensitivity":
                scores = torch.stack([one.sensitivity for one in self.scores]).sum(0)
            case "forgettability":
                scores = torch.stack([one.forgettability for one in self.scores]).sum(0)
            case "random":
                generator = torch.Generator().manual_seed(seed_for(self.seed, "heads", index))
                scores = torch.rand(layers, heads, generator=generator)
            case _:
                scores = self.scores[-1].importance
        return choose_heads(scores, *self.budgets)

    # ------------------------------------------------------------------ state

    def task_state(self, index: int) -> TaskState:
        tensors = {name: scores.contiguous() for name, scores in vars(self.scores[index]).items()}
        return TaskState(tensors, values={"heads": [list(head) for head in self.chosen[index]]})

    def load_task_state(self, index: int, state: TaskState) -> None:
        self.scores[index:] = [HeadScores(**state.tensors)]
        self.chosen[index:] = [tuple((int(layer), int(head)) for layer, head in state.values["heads"])]


class PublishedSeekr(Seekr):
    """SEEKR as published: old rows are seen once an epoch, in the steps of new ones; attention_weight 1000."""

    name = "seekr-paper"
    summary = "SEEKR with the paper's schedule and attention weight"
    recipe_defaults = DarkExperienceReplay.recipe_defaults  # none: the fields' own are the published ones
