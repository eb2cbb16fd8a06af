"""The figures of a compared run, and their spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seekr_lite.evaluation.scoreboard import Scoreboard
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.folder import RunFolder

COMPARED = ("op", "bwt", "forgetting", "nll", "nll_forgetting")
SHOWN_KEYS = 2  # in the label of a group
# Keys that say which of several like runs this one is, where it lies and how it was handled, not what it is.
NO_SETTING = {"run", "evaluate.batch_tokens", "train.micro_batch_tokens", "method.name"}


@dataclass(frozen=True)
class ComparedRun:
    """A run's line of the table. Figures are None where they are not known: the run has not ended, or has one task.

    learned: how many of its tasks are learned. untested: tasks without test rows, which the figures leave out. heads:
    attention heads held for the last task, where the method holds any. seconds: of learning, all tasks together.
    """

    path: str
    method: str
    seed: int
    learned: int
    tasks: tuple[str, ...]
    untested: tuple[str, ...]
    finished: bool
    heads: int | None
    seconds: float
    op: float | None
    bwt: float | None
    forgetting: float | None
    nll: float | None
    nll_forgetting: float | None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "tasks": list(self.tasks), "untested": list(self.untested)}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (over n-1) of a figure; the deviation is None for one value."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """None where a value is missing, or there is none."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        return cls(math.fsum(known) / len(known), statistics.stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True)
class MethodGroup:
    """The finished runs of one method that differ in their seeds alone.

    label: the method, and in brackets what sets this group apart from another one of the same method: a few keys, or
    the first of its runs.
    """

    label: str
    runs: tuple[ComparedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def figures(self) -> dict[str, Spread | None]:
        return {name: Spread.of([getattr(run, name) for run in self.runs]) for name in COMPARED}

    def to_json(self) -> dict[str, Any]:
        figures = {name: None if value is None else vars(value) for name, value in self.figures.items()}
        return {"label": self.label, "method": self.runs[0].method, "seeds": list(self.seeds), **figures}


def compared(folder: RunFolder, recipe: Recipe) -> ComparedRun:
    """A run's line of the table. Raises `UserError` where its scores, or the choice of its heads, are damaged."""
    scores = Scoreboard.from_json(folder.load_scores()) if folder.has_scores else None
    if scores is not None and scores.tasks != recipe.data.tasks:
        scores = None  # of the tasks before more were appended
    figures = dict.fromkeys(COMPARED) if scores is None else scores.summary()
    return ComparedRun(
        path=str(folder.path),
        method=folder.record.method,
        seed=folder.record.seed,
        learned=sum(len(stage.tasks) for stage in folder.record.stages),
        tasks=recipe.data.tasks,
        untested=() if scores is None else scores.untested,
        finished=scores is not None,
        heads=_heads_held(folder),
        seconds=math.fsum(stage.seconds for stage in folder.record.stages),
        **{name: figures[name] for name in COMPARED},
    )


def _heads_held(folder: RunFolder) -> int | None:
    """How many heads the last task is held by; read from its JSON alone, so that no tensor is loaded. None: unknown."""
    if not folder.record.stages or folder.heads_folder is None:
        return None
    values = folder.load_state_values(len(folder.record.stages) - 1, folder.heads_folder)
    return None if values is None else len(values["heads"])


def method_groups(runs: Sequence[ComparedRun], recipes: Sequence[Recipe]) -> tuple[MethodGroup, ...]:
    """The finished runs, those together that differ in nothing but the seed."""
    members: dict[tuple[str, str], list[int]] = {}
    for index, (run, recipe) in enumerate(zip(runs, recipes, strict=True)):
        if run.finished:
            settings = {key: str(value) for key, value in recipe.by_key().items() if is_setting(key)}
            members.setdefault((run.method, repr(settings)), []).append(index)
    groups = []
    for (method, _), indices in members.items():
        same_method = [others[0] for (other, _), others in members.items() if other == method]
        apart = [key for key in differing([recipes[index] for index in same_method]) if is_setting(key)]
        own = recipes[indices[0]].by_key()
        label = ", ".join(f"{key} = {own[key]}" for key in apart)
        if len(apart) > SHOWN_KEYS:
            label = f"as {runs[indices[0]].path}"  # `Comparison.differences` has the long list
        groups.append(MethodGroup(f"{method} ({label})" if label else method, tuple(runs[index] for index in indices)))
    return tuple(groups)


def is_setting(key: str) -> bool:
    """Whether `section.key` makes a run what it is, beside its method and seed."""
    return not {key.partition(".")[0], key} & NO_SETTING


def differing(recipes: Sequence[Recipe]) -> dict[str, list[Any]]:
    """The keys in which recipes differ, as `section.key`, each with the value of every recipe."""
    flat = [recipe.by_key() for recipe in recipes]
    columns = {key: [one[key] for one in flat] for key in flat[0]}
    return {key: values for key, values in columns.items() if len(set(map(str, values))) > 1}
