"""The longest step of every phase of a run, through the product's own functions, on a fake base or a real one.

A run needs most memory in its last task: all snapshots are there, and a stacked adapter is at its largest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from seekr_lite.attention.tap import tap
from seekr_lite.data.batch import collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.evaluation.generate import mean_answer_nll
from seekr_lite.methods.head_scoring import head_forgettability, head_sensitivity
from seekr_lite.methods.memory import ReplayRow
from seekr_lite.methods.seekr import Seekr
from seekr_lite.model.soft_prompts import PromptedModel
from seekr_lite.training.learner import Learner
from seekr_lite.training.micro_batches import MicroBatches
from seekr_lite.training.schedule import Step
from seekr_lite.training.step_gradients import StepGradients

TOKEN = 1


@dataclass(frozen=True)
class RowLength:
    """Tokens of a row as the model reads it: prompt, and answer with its end token."""

    prompt: int
    answer: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.answer


# ---------------------------------------------------------------------- the state of a run


def enter_last_task(learner: Learner, tasks: int, held_heads: int) -> None:
    """The state inside task `tasks` of a sequence: snapshots of the ones before, slot, student and its gradients.

    `held_heads` were chosen for each old task (seekr).
    """
    adapters = learner.adapters
    adapters.start_task(learner.method.starts_from_previous)
    for _ in range(0 if learner.method.joint else tasks - 1):
        if adapters.snapshots and not adapters.grows:
            adapters.snapshots.append(adapters.snapshots[0])  # all are of one size
        else:
            adapters.finish_task()
            adapters.start_task(learner.method.starts_from_previous)
    if isinstance(learner.method, Seekr):
        learner.method.chosen = [_chosen_heads(learner.method, held_heads)] * len(adapters.snapshots)
    if adapters.snapshots:
        with adapters.acting_as(0, slot_rank=adapters.teacher_rank):
            pass  # the slot is made
    learner.method.prepare_task(len(adapters.snapshots))
    for parameter in adapters.trainable_parameters():
        parameter.grad = torch.zeros_like(parameter)
    adapters.model.train()


def leave_last_task(learner: Learner) -> None:
    """The state after it: one more snapshot, no gradients."""
    adapters = learner.adapters
    for parameter in adapters.trainable_parameters():
        parameter.grad = None
    adapters.finish_task()
    adapters.model.eval()
    with adapters.acting_as(len(adapters.snapshots) - 1):
        pass


def _chosen_heads(method: Seekr, count: int) -> tuple[tuple[int, int], ...]:
    """So many heads in as few layers as can hold them: the choice that needs most memory."""
    heads = method.shape[1]
    return tuple((index // heads, index % heads) for index in range(count))


# ---------------------------------------------------------------------- the longest steps


LongestStep = Callable[[Learner, int, RowLength], None]  # a learner, how many rows, how long these are


def train_step(learner: Learner, rows: int, length: RowLength) -> None:
    """A micro-batch of new rows, forward and backward."""
    _step(learner, Step(new=tuple(range(rows))), length)


def replay_step(learner: Learner, rows: int, length: RowLength) -> None:
    """A micro-batch of old rows of one task: its teacher has the whole batch to itself."""
    _step(learner, Step(replay=tuple(range(rows))), length)


def _step(learner: Learner, step: Step, length: RowLength) -> None:
    """As one that logs the gradient norm of every term, which takes a little more than others."""
    count = len(step.new) + len(step.replay)
    rows = _rows(count, length)
    old = [ReplayRow(0, sample, encoded) for sample, encoded in enumerate(rows)]
    together = MicroBatches(count * length.tokens)
    gradients = StepGradients(learner.method, learner.adapters, together, replay_weight=1.0)
    with tap(learner.base.model) if learner.method.looks_into_attention else nullcontext():
        gradients(step, rows, old, with_norms=True)
    if together.tokens < count * length.tokens:
        raise torch.OutOfMemoryError(f"out of memory with {count} rows of {length.tokens} tokens at once")


def sensitivity_pass(learner: Learner, rows: int, length: RowLength) -> None:
    """Scoring, first half: the heads of one sample, with gradients (always one row)."""
    head_sensitivity(learner.adapters, _rows(1, length))


def change_pass(learner: Learner, rows: int, length: RowLength) -> None:
    """Scoring, second half: two passes of a sample, for how much the maps of its heads moved (always one row)."""
    last = len(learner.adapters.snapshots) - 1
    before, queries = last - 1 if last else None, [_query_rows(learner, length)]
    head_forgettability(learner.adapters, _rows(1, length), before, last, queries)


def held_out_pass(learner: Learner, rows: int, length: RowLength) -> None:
    """The likelihood of held-out answers, one batch."""
    with _last_adapter(learner):
        mean_answer_nll(learner.adapters.model, _rows(rows, length), _pad(learner), rows * length.tokens)


def prompts_pass(learner: Learner, rows: int, length: RowLength) -> None:
    """Generation, its first step: the prompts of a batch at once."""
    tokens = length.prompt + learner.method.extra_tokens(learner.recipe)
    batch = collate(prompts(rows, RowLength(tokens, 0)), _pad(learner)).to(learner.base.device)
    with _last_adapter(learner):
        _generating(learner)(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=True,
            logits_to_keep=1,
        )


def prompts(rows: int, length: RowLength) -> list[EncodedExample]:
    """Rows without answers."""
    return _rows(rows, RowLength(length.prompt, 0))


def last_token_pass(learner: Learner, rows: int, length: RowLength) -> None:
    """Generation, its last step: a token a row, behind a full cache, which has room for the longest answer allowed."""
    model, device = _generating(learner), learner.base.device
    room = learner.recipe.data.max_answer_tokens
    tokens = length.prompt + room + learner.method.extra_tokens(learner.recipe)
    token = torch.full((rows, 1), TOKEN, device=device)
    mask = torch.ones((rows, tokens), dtype=torch.long, device=device)
    with _last_adapter(learner):
        cache = model(input_ids=token, use_cache=True, logits_to_keep=1).past_key_values
        for index, layer in enumerate(cache.layers):
            grown = (rows, layer.keys.shape[1], tokens - 2, layer.keys.shape[-1])
            cache.update(layer.keys.new_zeros(grown), layer.values.new_zeros(grown), index)
        model(
            input_ids=token,
            attention_mask=mask,
            position_ids=torch.full_like(token, tokens - 1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )


def _generating(learner: Learner) -> Any:
    """What generates: of a soft prompt, the model that knows its virtual tokens and adds none."""
    model = learner.adapters.model
    return model.get_base_model() if isinstance(model, PromptedModel) else model


def _last_adapter(learner: Learner) -> AbstractContextManager[None]:
    return learner.adapters.acting_as(len(learner.adapters.snapshots) - 1)


def _rows(rows: int, length: RowLength) -> list[EncodedExample]:
    """Rows of the full length; the last of several is a token shorter, so that padding and its mask are there."""
    tokens = [length.tokens] * (rows - 1) + [length.tokens if rows == 1 else max(1, length.tokens - 1)]
    return [EncodedExample((TOKEN,) * count, min(length.answer, count - 1)) for count in tokens]


def _query_rows(learner: Learner, length: RowLength) -> Sequence[int] | None:
    budget = learner.recipe.method.query_budget
    return None if budget == "all" or budget >= length.tokens else range(budget)


def _pad(learner: Learner) -> int:
    return int(learner.base.tokenizer.pad_token_id)  # type: ignore[arg-type]
