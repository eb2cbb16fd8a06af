"""Scores the heads of a model on rows of a task, with no run (the bare base) or with the adapter of one."""

from __future__ import annotations

from dataclasses import dataclass

from seekr_lite.attention.selection import choose_heads, resolve_budgets
from seekr_lite.common.errors import UserError, nearest
from seekr_lite.common.progress import current_listener
from seekr_lite.data.encoding import encode_task_rows
from seekr_lite.data.task import Task
from seekr_lite.methods.head_scoring import head_forgettability, head_sensitivity
from seekr_lite.methods.registry import method_class
from seekr_lite.model.base import Base, load_base
from seekr_lite.model.lora import AdapterSequence
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.checks import check_against_base
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.tasks import gather_tasks
from seekr_lite.tools.heads.heads import Heads
from seekr_lite.tools.heads.scores import TaskHeads

# On a SuperNI task with SmolLM2 135M, ranks of 8 rows correlate 0.999 with those of 48; each costs a backward pass.
DEFAULT_ROWS = 8


@dataclass(frozen=True)
class HeadStudy:
    """The scores of one task's heads, on how many rows they rest, and in words which model was scored."""

    heads: Heads
    rows: int
    model: str


def score_task_heads(
    recipe: Recipe,
    task: str,
    rows: int = DEFAULT_ROWS,
    run: RunFolder | None = None,
    after: str | None = None,
) -> HeadStudy:
    """Scores every head on the first training rows of a task, and chooses as the recipe's budgets say.

    Without a run the bare base is scored: sensitivity alone, by which heads are chosen then. With a run, its model
    after the task `after` (by default its last) is scored, and forgettability compares it with the model it was
    learned from. Importance is the product of the two, of this one task.

    Raises:
        UserError: the recipe names no such task, `rows` is below 1, `after` without a run, the run learned no such
            task, or the run has another base than the recipe.
    """
    if rows < 1:
        raise UserError(f"rows {rows}: score at least one row")
    if after is not None and run is None:
        raise UserError(f'after "{after}": the bare base is scored, which has learned nothing; name a run (--run) too')
    if run is not None:
        own = run.recipe().base.model
        if recipe.base.model != own:
            raise UserError(
                f"{run.path}: this run's adapters belong to the base {own}, and base.model of the recipe is "
                f"{recipe.base.model}; use --set base.model={own}"
            )
        if run.load_snapshot(run.stage_after(after)).is_prompt:
            raise UserError(f"{run.path}: this run trains a soft prompt; heads are scored of LoRA adapters")
    found = read_task(recipe, task, run)
    if not found.train:
        raise UserError(f"task {task}: there are no training rows to score heads on")
    check_against_base(recipe)
    if run is None:
        adapters, before = AdapterSequence(load_base(recipe.base), recipe.adapter, recipe.run.seed), None
        adapters.start_task()  # a fresh LoRA adds nothing: this is the bare base
        model = "the bare base"
    else:
        adapters, before = adapters_for_scoring(run, load_base(run.recipe().base), after)
        model = f"{run.path} after {run.record.stages[run.stage_after(after)].tasks[-1]}"
    samples = encode_task_rows(adapters.base.tokenizer, found.train[:rows], recipe.data)
    with current_listener().phase(f"scoring heads on {task}", len(samples) * (1 if run is None else 2)) as advance:
        sensitivity = head_sensitivity(adapters, samples, advance)
        forgettability = None
        if run is not None:
            after_index = len(adapters.snapshots) - 1
            every_query = [None] * len(samples)
            forgettability = head_forgettability(adapters, samples, before, after_index, every_query, advance)
    importance = None if forgettability is None else sensitivity * forgettability
    budgets = resolve_budgets(recipe.method, *sensitivity.shape)
    chosen = choose_heads(sensitivity if importance is None else importance, *budgets)
    scored = TaskHeads(task, sensitivity, forgettability, importance, chosen)
    return HeadStudy(Heads((scored,)), len(samples), model)


def read_task(recipe: Recipe, name: str, folder: RunFolder | None) -> Task:
    """One task of a recipe. Raises `UserError` where the recipe does not name it."""
    if name not in recipe.data.tasks:
        raise UserError(
            f'task "{name}": the recipe has {", ".join(recipe.data.tasks)}{nearest(name, recipe.data.tasks)}'
        )
    data = recipe.data.model_copy(update={"tasks": (name,)})
    return gather_tasks(recipe.model_copy(update={"data": data}), folder, ())[0]


def adapters_for_scoring(folder: RunFolder, base: Base, after: str | None) -> tuple[AdapterSequence, int | None]:
    """The model after a task as the student, whose gradients sensitivity needs, and the index of the one before it.

    The student takes the snapshot's own rank and goes on from it, so that a sum of LoRAs (`growth = "stack"`), which is
    one adapter of a larger rank, is scored like any other.
    """
    index = folder.stage_after(after)
    goes_on = index > 0 and method_class(folder.record.method).starts_from_previous
    snapshots = [folder.load_snapshot(index - 1)] if goes_on else []
    snapshots.append(folder.load_snapshot(index))
    own = {"rank": snapshots[-1].rank, "alpha": snapshots[-1].alpha, "growth": "continue"}
    adapters = AdapterSequence(base, folder.recipe().adapter.model_copy(update=own), folder.record.seed)
    adapters.snapshots = snapshots
    adapters.start_task()
    return adapters, 0 if goes_on else None
