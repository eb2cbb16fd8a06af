"""The longest step of every phase of a run, through the product's own functions, to be measured.

A run needs most memory in its last task: all snapshots are there, and a stacked adapter is at its largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from seekr_lite.attention.tap import tap
from seekr_lite.data.batch import collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.evaluation.generate import mean_answer_nll
from seekr_lite.methods.head_scoring import head_forgettability, head_sensitivity
from seekr_lite.methods.replay_memory import ReplayRow
from seekr_lite.methods.seekr import Seekr
from seekr_lite.model.soft_prompts import PromptedModel
from seekr_lite.tools.plan.memory import RowLength, Sizes, prompts_at_once
from seekr_lite.training.learner import Learner
from seekr_lite.training.micro_batches import MicroBatches
from seekr_lite.training.replay_schedule import Step
from seekr_lite.training.step_gradients import StepGradients

TOKEN = 1
PAD = 0


@dataclass(frozen=True)
class LongestStep:
    phase: str
    name: str
    rows: int
    run: Callable[[], object]


# ---------------------------------------------------------------------- the state of a run


def enter_last_task(learner: Learner, tasks: int, held_heads: int) -> None:
    """The state inside task `tasks` of a sequence: snapshots of the ones before, slot, student and its gradients.

    `held_heads` were chosen for each old task (seekr), in as few layers as can hold them, which needs most memory.
    """
    adapters = learner.adapters
    adapters.start_task(learner.method.starts_from_previous)
    for _ in range(tasks - 1):
        if adapters.snapshots and not adapters.grows:
            adapters.snapshots.append(adapters.snapshots[0])  # all are of one size
        else:
            adapters.finish_task()
            adapters.start_task(learner.method.starts_from_previous)
    if isinstance(learner.method, Seekr):
        heads = learner.method.shape[1]
        chosen = tuple((index // heads, index % heads) for index in range(held_heads))
        learner.method.chosen = [chosen] * len(adapters.snapshots)
    if adapters.snapshots:
        with adapters.acting_as(0, slot_rank=adapters.teacher_rank):
            pass  # the slot is made
    learner.method.prepare_task(len(adapters.snapshots))
    for parameter in adapters.trainable_parameters():
        parameter.grad = torch.zeros_like(parameter)
    adapters.model.train()


def leave_last_task(learner: Learner) -> None:
    """The state after it: one more snapshot, no gradients."""
    for parameter in learner.adapters.trainable_parameters():
        parameter.grad = None
    learner.adapters.finish_task()
    learner.adapters.model.eval()
    with last_adapter(learner):
        pass  # the slot is made


def last_adapter(learner: Learner) -> AbstractContextManager[None]:
    """Inside the block the last snapshot acts."""
    return learner.adapters.acting_as(len(learner.adapters.snapshots) - 1)


# ---------------------------------------------------------------------- the longest steps


def steps_while_learning(learner: Learner, sizes: Sizes) -> Iterator[LongestStep]:
    """Micro-batches of new rows and of old ones of one task, whose teacher has the whole batch to itself."""

    def step(new: int, old: int) -> None:
        """As one that logs the gradient norm of every term, which takes a little more than others."""
        rows = rows_of(new + old, sizes.length)
        memory = [ReplayRow(0, sample, encoded) for sample, encoded in enumerate(rows)]
        room = len(rows) * sizes.length.tokens
        micro_batches = MicroBatches(room)
        gradients = StepGradients(learner.method, learner.adapters, micro_batches, replay_weight=1.0)
        with tap(learner.base.model) if learner.method.looks_into_attention else nullcontext():
            gradients(Step(tuple(range(new)), tuple(range(old))), rows, memory, with_norms=True)
        if micro_batches.tokens < room:
            raise torch.OutOfMemoryError(f"out of memory with {len(rows)} rows of {sizes.length.tokens} tokens at once")

    yield LongestStep("train", "new rows", sizes.train, lambda: step(sizes.train, 0))
    if sizes.replay:
        yield LongestStep("replay", "old rows", sizes.replay, lambda: step(0, sizes.replay))


def steps_after_task(learner: Learner, sizes: Sizes) -> Iterator[LongestStep]:
    """Scoring of a sample's heads, the likelihood of held-out answers, and generation: its prompts, its last token."""
    adapters, last, length = learner.adapters, len(learner.adapters.snapshots) - 1, sizes.length
    if learner.method.looks_into_attention:
        budget, one = learner.recipe.method.query_budget, rows_of(1, length)
        queries = None if budget == "all" or budget >= length.tokens else range(budget)
        before = last - 1 if last else None
        yield LongestStep("scoring", "sensitivity", 1, lambda: head_sensitivity(adapters, one))
        yield LongestStep(
            "scoring", "change of maps", 1, lambda: head_forgettability(adapters, one, before, last, [queries])
        )
    if sizes.held_out:
        held_out, tokens = rows_of(sizes.held_out, length), sizes.held_out * length.tokens
        yield LongestStep(
            "validation", "likelihood", sizes.held_out, lambda: mean_answer_nll(adapters.model, held_out, PAD, tokens)
        )
    model, device, rows = generating(learner), learner.base.device, sizes.generation
    prompt = length.prompt + sizes.in_front
    at_once = prompts_at_once(rows, prompt)

    def read_prompts() -> None:
        batch = collate(rows_of(at_once, RowLength(prompt, 0)), PAD).to(device)
        states = {"attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
        model(input_ids=batch.input_ids, **states, use_cache=True, logits_to_keep=1)

    def write_last_token() -> None:
        """A token a row, behind a full cache, which has room for the longest answer that is allowed."""
        tokens = prompt + learner.recipe.data.max_answer_tokens
        token = torch.full((rows, 1), TOKEN, device=device)
        cache = model(input_ids=token, use_cache=True, logits_to_keep=1).past_key_values
        for index, layer in enumerate(cache.layers):
            grown = (rows, layer.keys.shape[1], tokens - 2, layer.keys.shape[-1])
            cache.update(layer.keys.new_zeros(grown), layer.values.new_zeros(grown), index)
        mask = torch.ones((rows, tokens), dtype=torch.long, device=device)
        states = {"attention_mask": mask, "position_ids": torch.full_like(token, tokens - 1)}
        model(input_ids=token, **states, past_key_values=cache, use_cache=True, logits_to_keep=1)

    yield LongestStep("generation", "prompts", at_once, read_prompts)
    yield LongestStep("generation", "last token", rows, write_last_token)


def generating(learner: Learner) -> Any:
    """What generates: of a soft prompt, the model that knows its virtual tokens and adds none."""
    model = learner.adapters.model
    return model.get_base_model() if isinstance(model, PromptedModel) else model


def rows_of(rows: int, length: RowLength) -> list[EncodedExample]:
    """Rows of the full length; the last of several is a token shorter, so that padding and its mask are there."""
    tokens = [length.tokens] * (rows - 1) + [length.tokens if rows == 1 else max(1, length.tokens - 1)]
    return [EncodedExample((TOKEN,) * count, min(length.answer, count - 1)) for count in tokens]
