"""The models of a run by name, and what the run itself has found with each: a stage's model, or the bare base."""

from __future__ import annotations

from collections.abc import Sequence

from seekr_lite.common.errors import UserError, nearest
from seekr_lite.evaluation.scoreboard import Scoreboard
from seekr_lite.methods.registry import method_class
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.record import EvaluationRecord

BARE_BASE = "base"
Stage = int | None  # the model after this stage; None: the bare base


def find_stages(folder: RunFolder, after: Sequence[str]) -> list[Stage]:
    """The stages that learned these tasks, by default the last; "base" is the bare base, where no task is called so.

    Raises:
        UserError: the run has learned no such task.
    """
    learned = [task for stage in folder.record.stages for task in stage.tasks]
    stages = [None if name == BARE_BASE and name not in learned else folder.stage_after(name) for name in after]
    return stages or [folder.stage_after(None)]


def model_name(folder: RunFolder, stage: Stage) -> str:
    """The model in words: the task after which it is, or the bare base."""
    if stage is None:
        return "(bare base)"
    tasks = folder.record.stages[stage].tasks
    return tasks[0] if len(tasks) == 1 else "all tasks"


def find_tasks(folder: RunFolder, tasks: Sequence[str]) -> list[str]:
    """These tasks of the run's recipe, by default all. Raises `UserError` where it has no such task."""
    known = folder.recipe().data.tasks
    for task in tasks:
        if task not in known:
            raise UserError(
                f'task "{task}": this run has {", ".join(known)}{nearest(task, known)} (another data set: --data)'
            )
    return list(tasks or known)


def known_result(folder: RunFolder, stage: Stage, task: str) -> EvaluationRecord | None:
    """What the run itself found with this very adapter on a task of its own."""
    method, tasks = method_class(folder.record.method), folder.recipe().data.tasks
    if stage is None:
        return folder.evaluation(None, task)
    if method.joint:
        return folder.evaluation(len(tasks) - 1, task)
    if method.routed_by_task and tasks.index(task) != stage:
        return None  # after this stage, the run tests the task with another adapter
    return folder.evaluation(stage, task)


def known_metrics(folder: RunFolder) -> dict[str, str]:
    """The metric of each task, once the run has ended."""
    return Scoreboard.from_json(folder.load_scores()).metrics if folder.has_scores else {}
