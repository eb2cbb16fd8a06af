"""Which changes of its recipe a run can go on with."""

from __future__ import annotations

from typing import Any

from seekr_lite.attention.selection import resolve_budgets
from seekr_lite.common.errors import UserError
from seekr_lite.methods.registry import method_class, with_options
from seekr_lite.model.base import load_config
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
    old_tasks, new_tasks = old_recipe.data.tasks, recipe.data.tasks
    allowed = set(HARMLESS_KEYS)
    if new_tasks[: len(old_tasks)] == old_tasks:
        allowed.add("data.tasks")
        if all(recipe.epochs_of(i) == old_recipe.epochs_of(i) for i in range(len(old_tasks))):
            allowed.add("train.epochs")
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key) and key not in allowed]
    if differing:
        raise UserError(
            f"{folder.path}: this folder holds a run of another recipe; differing: {', '.join(differing)}. "
            "Run it with the same recipe (tasks may be appended), or name another folder (--output)"
        )
    if method_class(folder.record.method).joint and new_tasks != old_tasks and folder.record.stages:
        raise UserError(
            f"{folder.path}: a joint run has learned all its tasks at once and takes no more; name another folder"
        )


def _values(recipe: Recipe) -> dict[str, Any]:
    """`section.key` -> value, each of the method's options by itself."""
    values = recipe.by_key()
    return values | {f"method.options.{key}": value for key, value in values.pop("method.options").items()}


def check_against_base(recipe: Recipe) -> None:
    """Refuses what the base cannot do, from its configuration alone."""
    method = method_class(recipe.method.name)
    method.read_options(recipe.method)
    if method.growth == "continue" and recipe.adapter.growth != "continue":
        raise UserError(f'adapter.growth = "stack": the method "{method.name}" works on "continue" only')
    config = load_config(recipe.base).get_text_config()
    if method.looks_into_attention:
        layers, heads = (getattr(config, name, None) for name in ("num_hidden_layers", "num_attention_heads"))
        if not isinstance(layers, int) or not isinstance(heads, int):
            raise UserError(f"base.model {recipe.base.model}: its configuration has no number of layers and heads")
        resolve_budgets(recipe.method, layers, heads)
    longest = getattr(config, "max_position_embeddings", None)
    asked = recipe.data.max_prompt_tokens + recipe.data.max_answer_tokens
    extra = method.extra_tokens(recipe)
    if isinstance(longest, int) and 0 < longest < asked + extra:
        prompt = f" and a soft prompt of {extra}" if extra else ""
        raise UserError(
            f"data.max_prompt_tokens + data.max_answer_tokens = {asked}{prompt}: the base reads at most {longest} "
            "tokens; lower one of them (`seekr-lite data check` shows how long the rows are)"
        )
