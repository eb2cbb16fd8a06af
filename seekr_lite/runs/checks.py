"""Which changes of its recipe a run can go on with."""

from __future__ import annotations

from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.methods.registry import with_options
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.folder import RunFolder

# Keys that do not change what is learned, but for rounding, what dropout draws, and steps from which nothing can be
# learned: they may differ when a run goes on. Those of memory are here so that a run which ran out of it is not lost.
HARMLESS_KEYS = {
    "train.micro_batch_tokens",
    "train.checkpointing",
    "train.on_bad_loss",
    "train.bad_steps_limit",
    "evaluate.batch_tokens",
    "run.output",
    "run.memory_limit_gb",
    "run.checkpoint_minutes",
    "run.checkpoint_steps",
    "run.trackers",
    "evaluate.rounds",
}


def check_continues(folder: RunFolder, recipe: Recipe) -> None:
    """Refuses a recipe that would change what the folder has learned; appended tasks go on with it."""
    old_recipe = folder.recipe()
    if old_recipe.method.options != recipe.method.options:  # defaults of the method may have changed since
        old_recipe, recipe = with_options(old_recipe), with_options(recipe)
    before, now = _values(old_recipe), _values(recipe)
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key) and key not in HARMLESS_KEYS]
    old_tasks, new_tasks = old_recipe.data.tasks, recipe.data.tasks
    appended = new_tasks[: len(old_tasks)] == old_tasks
    same_epochs = all(recipe.epochs_of(i) == old_recipe.epochs_of(i) for i in range(len(old_tasks)))
    differing = [
        key
        for key in differing
        if not (key == "data.tasks" and appended) and not (key == "train.epochs" and appended and same_epochs)
    ]
    if differing:
        raise UserError(
            f"{folder.path}: this folder holds a run of another recipe; differing: {', '.join(differing)}. "
            "Run it with the same recipe (tasks may be appended), or name another folder (--output)"
        )
    if folder.record.method == "joint" and new_tasks != old_tasks and folder.record.stages:
        raise UserError(
            f"{folder.path}: a joint run has learned all its tasks at once and takes no more; name another folder"
        )


def _values(recipe: Recipe) -> dict[str, Any]:
    """`section.key` -> value, each of the method's options by itself."""
    values = recipe.by_key()
    return values | {f"method.options.{key}": value for key, value in values.pop("method.options").items()}
