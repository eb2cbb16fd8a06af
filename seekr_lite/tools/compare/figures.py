"""The figures of a compared run, and their spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seekr_lite.evaluation.scoreboard import Scoreboard

if TYPE_CHECKING:
    from seekr_lite.recipe.recipe import Recipe
    from seekr_lite.runs.folder import RunFolder


FIGURES = ("op", "bwt", "forgetting", "nll", "nll_forgetting")
SHOWN_KEYS = 2  # in the label of a group
# Keys that say which of several like runs this one is, where it lies and how it was handled, not what it is.
NO_SETTING = {"run", "evaluate.batch_tokens", "train.micro_batch_tokens", "method.name"}


@dataclass(frozen=True)
class ComparedRun:
    """A run's line of the table. Figures are None where they are not known: the run has not ended, or has one task.

    learned: how many of its tasks are learned. heads: attention heads held for the last task, where the method holds
    any. seconds: of learning, all tasks together.
    """

    path: str
    method: str
    seed: int
    learned: int
    tasks: tuple[str, ...]
    finished: bool
    heads: int | None
    seconds: float
    op: float | None
    bwt: float | None
    forgetting: float | None
    nll: float | None
    nll_forgetting: float | None


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
    """The finished runs of one method that differ in their seeds alone, summed up.

    label: the method, and in brackets what sets this group apart from another one of the same method: a few keys, or
    the first of its runs.
    """

    label: str
    method: str
    seeds: tuple[int, ...]
    figures: dict[str, Spread | None]


def _compared(folder: RunFolder, recipe: Recipe) -> ComparedRun:
    scores = Scoreboard.from_json(folder.load_scores()) if folder.has_scores else None
    current = scores is not None and scores.tasks == recipe.data.tasks
    figures = scores.summary() if scores is not None and current else dict.fromkeys(FIGURES)
    return ComparedRun(
        path=str(folder.path),
        method=folder.record.method,
        seed=folder.record.seed,
        learned=sum(len(stage.tasks) for stage in folder.record.stages),
        tasks=recipe.data.tasks,
        finished=current,
        heads=_heads_held(folder),
        seconds=math.fsum(stage.seconds for stage in folder.record.stages),
        **{name: figures[name] for name in FIGURES},
    )


def _heads_held(folder: RunFolder) -> int | None:
    """How many heads the last task is held by; read from its JSON alone, so that no tensor is loaded."""
    if not folder.record.stages or folder.heads_folder is None:
        return None
    return len(folder.load_state_values(len(folder.record.stages) - 1, folder.heads_folder)["heads"])


def _groups(runs: Sequence[ComparedRun], recipes: Sequence[Recipe]) -> tuple[MethodGroup, ...]:
    members: dict[tuple[str, str], list[int]] = {}
    for index, (run, recipe) in enumerate(zip(runs, recipes, strict=True)):
        if run.finished:
            members.setdefault((run.method, repr(_settings(recipe))), []).append(index)
    groups = []
    for (method, _), indices in members.items():
        same_method = [others[0] for (other, _), others in members.items() if other == method]
        apart = _differences([_settings(recipes[index]) for index in same_method])
        own = _settings(recipes[indices[0]])
        found = [runs[index] for index in indices]
        label = ", ".join(f"{key} = {own[key]}" for key in apart)
        if len(apart) > SHOWN_KEYS:
            label = f"as {found[0].path}"  # `Comparison.differences` has the long list
        groups.append(
            MethodGroup(
                label=f"{method} ({label})" if label else method,
                method=method,
                seeds=tuple(run.seed for run in found),
                figures={name: Spread.of([getattr(run, name) for run in found]) for name in FIGURES},
            )
        )
    return tuple(groups)


def _settings(recipe: Recipe) -> dict[str, str]:
    """`section.key` -> value as text, of what makes a run what it is, whatever its method and seed."""
    return {key: str(value) for key, value in recipe.by_key().items() if is_setting(key)}


def is_setting(key: str) -> bool:
    """Whether `section.key` makes a run what it is, beside its method and seed."""
    return not {key.partition(".")[0], key} & NO_SETTING


def _differences(settings: Sequence[dict[str, str]]) -> dict[str, tuple[str, ...]]:
    """The keys in which recipes differ, each with its different values."""
    found = {}
    for key in settings[0] if settings else ():
        values = tuple(dict.fromkeys(one[key] for one in settings))
        if len(values) > 1:
            found[key] = values
    return found
