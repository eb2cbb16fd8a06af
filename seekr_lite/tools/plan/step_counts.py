"""How many steps and tokens a run has: the learner's own schedule, counted instead of run."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from seekr_lite.evaluation.scoreboard import planned_evaluations
from seekr_lite.methods.registry import method_class
from seekr_lite.methods.replay_memory import kept_rows
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.plan.workload import Workload
from seekr_lite.training.replay_schedule import plan_epoch


@dataclass(frozen=True)
class StageCount:
    """A stage (a task; of a joint run all tasks): optimizer steps, and rows and tokens over all epochs.

    most_replay_rows: in one optimizer step.
    """

    name: str
    epochs: int
    steps: int
    new_rows: int
    new_tokens: int
    replay_rows: int
    replay_tokens: int
    most_replay_rows: int
    memory_rows: int
    memory_tokens: int


@dataclass(frozen=True)
class EvaluationCount:
    """All evaluations of a run: how many, prompts and their tokens, tokens to write (as many as training answers have
    on average), tokens of held-out rows."""

    evaluations: int
    prompts: int
    prompt_tokens: int
    written_tokens: int
    held_out_tokens: int


def count_stages(recipe: Recipe, workload: Workload) -> tuple[StageCount, ...]:
    """The stages in order."""
    settings, method, tasks = recipe.method, method_class(recipe.method.name), workload.tasks
    planned = [(task.name, [task], recipe.epochs_of(index)) for index, task in enumerate(tasks)]
    if method.joint and tasks:
        visits = sum(len(task.train) * recipe.epochs_of(index) for index, task in enumerate(tasks))
        planned = [("all tasks", list(tasks), math.ceil(visits / sum(len(task.train) for task in tasks)))]
    stages: list[StageCount] = []
    for name, learned, epochs in planned:
        lengths = [row.tokens for task in learned for row in task.train]
        old = sum(stage.memory_rows for stage in stages)
        own, passes = settings.replay_step == "own", settings.replay_passes
        epoch = plan_epoch(len(lengths), recipe.train.batch_size, old, passes, own, random.Random(0))
        replayed = epochs * sum(len(step.replay) for step in epoch)
        kept = kept_rows(len(lengths), settings.replay_fraction) if method.replays else 0
        stages.append(
            StageCount(
                name=name,
                epochs=epochs,
                steps=epochs * len(epoch),
                new_rows=epochs * len(lengths),
                new_tokens=epochs * sum(lengths),
                replay_rows=replayed,
                replay_tokens=round(replayed * sum(stage.memory_tokens for stage in stages) / max(1, old)),
                most_replay_rows=max(len(step.replay) for step in epoch),
                memory_rows=kept,
                memory_tokens=round(kept * sum(lengths) / len(lengths)),
            )
        )
    return tuple(stages)


def count_evaluations(recipe: Recipe, workload: Workload) -> EvaluationCount:
    """What the recipe's rounds test; a model and a test set that meet again are not tested again."""
    method, tasks = method_class(recipe.method.name), workload.tasks
    planned = planned_evaluations(len(tasks), recipe.evaluate.rounds, method.joint)
    if method.routed_by_task:  # task t is always answered by adapter t, or before it by the base
        planned = list(
            dict.fromkeys((task if after is not None and task <= after else None, task) for after, task in planned)
        )
    prompts = tokens = written = held_out = 0
    for _, index in planned:
        task = tasks[index]
        answers = sum(row.answer for row in task.train) / len(task.train)
        prompts += len(task.test)
        tokens += sum(task.test)
        written += round(len(task.test) * answers)
        held_out += sum(row.tokens for row in task.validation)
    return EvaluationCount(len(planned), prompts, tokens, written, held_out)
