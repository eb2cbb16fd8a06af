"""Tests any model of a run on any of its tasks, or on another data set. The run itself stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seekr_lite.common.errors import UserError, nearest
from seekr_lite.data.readers import READERS
from seekr_lite.data.task import Task
from seekr_lite.evaluation.evaluate import evaluate_task
from seekr_lite.recipe.recipe import DataSettings, Recipe, parse_override
from seekr_lite.runs.checks import check_against_base
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.stages import find_stages, find_tasks, known_metrics, known_result, model_name
from seekr_lite.runs.tasks import gather_tasks
from seekr_lite.tools.models import RunModels

# How rows become tokens: another data set is read as the run's own was, unless it is said otherwise.
KEPT = ("max_prompt_tokens", "max_answer_tokens", "chat_template")


@dataclass(frozen=True)
class Evaluation:
    """A model's score (0 to 100) on a task, and its NLL per answer token on the held-out rows; None without such rows.

    model: the task after which it is, or "(bare base)". metric: None where it is not known without the data.
    from_run: the run had tested this itself, and was not tested again.
    """

    model: str
    task: str
    metric: str | None
    score: float | None
    nll: float | None
    from_run: bool


def evaluate_run(
    folder: RunFolder,
    after: str | Sequence[str] = (),
    tasks: Sequence[str] = (),
    data: str | None = None,
    overrides: Sequence[str] = (),
) -> list[Evaluation]:
    """Tests models of a run; what the run has tested itself is read, not repeated. Nothing is written.

    Args:
        after: the tasks after which the models are, by default the last; "base" is the bare base.
        tasks: tasks of the run, by default all; with `data`, tasks of that data set.
        data: another data set, `format:path` as in a recipe's [data], for example "jsonl:my-tasks".
        overrides: `data.key=value`, for the other data set.

    Raises:
        UserError: no such task, no such data, or an adapter that is damaged.
    """
    stages = find_stages(folder, [after] if isinstance(after, str) else after)
    if data is None:
        if overrides:
            raise UserError(
                f"--set {overrides[0]}: goes with another data set (--data); a run's own tasks stay as they are"
            )
        names, recipe = find_tasks(folder, tasks), folder.recipe()
        known = {(stage, name): known_result(folder, stage, name) for stage in stages for name in names}
    else:
        recipe = _with_data(folder.recipe(), data, tasks, overrides)
        names, known = list(recipe.data.tasks), {}
    missing = [name for name in names if any(known.get((stage, name)) is None for stage in stages)]
    read: dict[str, Task] = {}
    if missing:
        check_against_base(recipe)
        wanted = recipe.model_copy(update={"data": recipe.data.model_copy(update={"tasks": tuple(missing)})})
        read = {task.name: task for task in gather_tasks(wanted, folder if data is None else None, ())}
    models, metrics = RunModels(folder), known_metrics(folder)
    found = []
    for stage in stages:
        for name in names:
            model_after, record = model_name(folder, stage), known.get((stage, name))
            if record is not None:
                found.append(Evaluation(model_after, name, metrics.get(name), record.score, record.nll, True))
                continue
            what = "the bare base" if stage is None else f"after {model_after}"
            with models.acting(stage) as model:
                result = evaluate_task(model, models.tokenizer, read[name], recipe, what)
            found.append(Evaluation(model_after, name, read[name].metric, result.score, result.nll, False))
    return found


def _with_data(recipe: Recipe, data: str, tasks: Sequence[str], overrides: Sequence[str]) -> Recipe:
    """The run's recipe with another data set in place of its own."""
    form, _, path = data.partition(":")
    if form not in READERS:
        raise UserError(
            f"--data {data}: write FORMAT:PATH; formats: {', '.join(READERS)}{nearest(form, READERS)}. "
            "For example --data jsonl:my-tasks"
        )
    if not tasks:
        raise UserError(f"--data {data}: name the tasks in it, too: --task NAME")
    own = recipe.data.model_dump()
    sections: dict[str, dict[str, Any]] = {
        "data": {name: field.get_default() for name, field in DataSettings.model_fields.items()}
        | {name: own[name] for name in KEPT}
        | {"format": form, "path": path or None, "tasks": tuple(tasks)},
        "train": {"epochs": 1},  # one number fits any number of tasks; nothing is trained
    }
    for override in overrides:
        section, key, value = parse_override(override)
        if section not in ("data", "evaluate"):
            raise UserError(f"--set {override}: nothing is trained here; keys of [data] and [evaluate] may be changed")
        sections.setdefault(section, {})[key] = value
    return recipe.with_(**sections)
