"""The readers, by `data.format`. A new benchmark is one file beside this one, and a line in `READERS`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from seekr_lite.common.errors import UserError, check_task_name
from seekr_lite.common.files import user_path
from seekr_lite.data.huggingface import read_datasets
from seekr_lite.data.jsonl import read_jsonl
from seekr_lite.data.rows import hold_out
from seekr_lite.data.superni import read_superni
from seekr_lite.data.task import Task
from seekr_lite.data.toy import read_toy
from seekr_lite.data.trace import read_trace
from seekr_lite.recipe.recipe import DataSettings

SPLIT_FILES = {
    "jsonl": "train.jsonl and test.jsonl",
    "trace": "train.json and test.json",
    "superni": "train.json and test.json",
}


def load_tasks(settings: DataSettings) -> list[Task]:
    """Reads the tasks of a recipe in order, with validation rows held out and limits applied.

    Raises:
        UserError: all that is wrong with any of them, at once.
    """
    reader = READERS[settings.format]
    tasks, problems = [], []
    if settings.path and settings.format != "datasets" and not os.path.isdir(user_path(settings.path)):
        raise UserError(
            f"data.path {settings.path}: there is no such folder, seen from where the command was called; it has to "
            f"hold a folder for each task, named as in data.tasks, with {SPLIT_FILES.get(settings.format, 'its rows')}"
        )
    for name in dict.fromkeys(settings.tasks):
        if settings.tasks.count(name) > 1:
            problems.append(f"data.tasks: {name} is named more than once; name each task once")
        try:
            check_task_name(name)
            tasks.append(_finish(reader(name, settings), settings))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return tasks


def _finish(task: Task, settings: DataSettings) -> Task:
    train, validation = hold_out(task.train, settings.validation_rows, task.name)
    return replace(
        task,
        train=tuple(train[: settings.train_limit]),
        test=task.test[: settings.test_limit],
        validation=tuple(validation),
        metric=settings.metric or task.metric,
        extraction=settings.extraction or task.extraction,
    )


READERS: dict[str, Callable[[str, DataSettings], Task]] = {
    "trace": read_trace,
    "superni": read_superni,
    "jsonl": read_jsonl,
    "datasets": read_datasets,
    "toy": read_toy,
}
