"""The tasks of a run: handed over from Python, kept in its folder, or read from data."""

from __future__ import annotations

from collections.abc import Sequence

from seekr_lite.common.errors import UserError
from seekr_lite.data.readers import load_tasks
from seekr_lite.data.task import Task
from seekr_lite.evaluation.evaluate import check_metrics
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.folder import RunFolder


def gather_tasks(recipe: Recipe, folder: RunFolder | None, given: Sequence[Task]) -> list[Task]:
    """The tasks of the recipe in order: handed over, kept in the run folder, or read by the recipe's reader.

    Raises:
        UserError: all that is wrong with the data, at once.
    """
    found = {task.name: task for task in given}
    if folder is not None:
        refuse_other_rows(folder, given)
        for name in recipe.data.tasks:
            kept = folder.load_task(name)
            if kept is not None:
                found.setdefault(name, kept)
    missing = tuple(name for name in recipe.data.tasks if name not in found)
    if missing and recipe.data.format == "python":
        raise UserError(
            f'tasks {", ".join(missing)}: with data.format = "python" tasks are handed over in Python: '
            "run(recipe, tasks=[...])"
        )
    read = load_tasks(recipe.data.model_copy(update={"tasks": missing})) if missing else []
    found |= {task.name: task for task in read}
    sequence = [found[name] for name in recipe.data.tasks]
    if not sequence:
        raise UserError("data.tasks: name at least one task")
    check_metrics(sequence)
    return sequence


def refuse_other_rows(folder: RunFolder, given: Sequence[Task]) -> None:
    """Raises `UserError` where a task is handed over that the folder keeps with other rows."""
    for task in given:
        if folder.load_task(task.name) not in (None, task):
            raise UserError(
                f"{folder.path}: the task {task.name} was handed over with other rows before; hand over the same ones, "
                "or none, or give the new rows another name (or begin anew: fresh=True)"
            )
