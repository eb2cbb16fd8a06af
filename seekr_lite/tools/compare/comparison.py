"""Runs side by side: their figures, and mean and spread over the seeds of each method.

(Not `compare.py`: the package's public function `compare` would be hidden by a module of the same name.)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import UserError
from seekr_lite.evaluation.scoreboard import Scoreboard
from seekr_lite.recipe.method_names import HEADS_FOLDER

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


@dataclass(frozen=True)
class Comparison:
    """`runs` in the order given; `groups` sum up the finished ones; `differences` are keys of their recipes that
    differ, besides method and seed: key -> the values, as text."""

    runs: tuple[ComparedRun, ...]
    groups: tuple[MethodGroup, ...]
    differences: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, folders: Sequence[RunFolder]) -> Comparison:
        """Compares runs on disk. Raises `UserError` where there are none, or a file of one is damaged."""
        if not folders:
            raise UserError("compare: name at least one run")
        recipes = [folder.recipe() for folder in folders]
        runs = tuple(_compared(folder, recipe) for folder, recipe in zip(folders, recipes, strict=True))
        return cls(runs, _groups(runs, recipes), _differences([_settings(recipe) for recipe in recipes]))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        groups = [
            {
                "label": group.label,
                "method": group.method,
                "seeds": list(group.seeds),
                **{name: None if value is None else vars(value) for name, value in group.figures.items()},
            }
            for group in self.groups
        ]
        return {
            "runs": [{**vars(run), "tasks": list(run.tasks)} for run in self.runs],
            "methods": groups,
            "differences": {key: list(values) for key, values in self.differences.items()},
        }

    def save_html(self, path: str | Path) -> None:
        """Writes one HTML file that needs nothing else. Raises `UserError` where it cannot be written."""
        from seekr_lite.common.files import user_file
        from seekr_lite.runs.runner import open_run
        from seekr_lite.tools.compare.compare_html import compare_html

        page = compare_html([open_run(run.path) for run in self.runs])
        with user_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8")

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console

        from seekr_lite.common.terminal import printable

        pass

        text = StringIO()
        Console(file=text, width=160, no_color=True, highlight=False).print(render_comparison(self))
        return printable(text.getvalue().rstrip("\n"))


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
    if not folder.record.stages or not folder.holds_heads:
        return None
    return len(folder.load_state_values(len(folder.record.stages) - 1, HEADS_FOLDER)["heads"])


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


SHOWN_CHARACTERS = 60
COLUMNS = {  # figure -> (its column, digits)
    "op": ("OP", 1),
    "bwt": ("BWT", 1),
    "forgetting": ("forget-\nting", 1),
    "nll": ("NLL", 3),
    "nll_forgetting": ("NLL since\nlearned", 3),
}


def render_comparison(comparison: Comparison) -> Any:
    """A line per run; where there are several runs, a line per method; then what else the runs differ in."""
    from rich.console import Group
    from rich.text import Text

    parts = [_runs(comparison)]
    if len(comparison.runs) > 1 and comparison.groups:
        parts.append(_methods(comparison))
    for key, values in comparison.differences.items():
        shown = " | ".join(value if len(value) <= SHOWN_CHARACTERS else f"{value[:57]}..." for value in values)
        parts.append(Text(f"The runs differ in {key}: {shown}", style="yellow"))
    unfinished = [run for run in comparison.runs if not run.finished]
    if unfinished:
        parts.append(Text("A run without figures has not ended; `seekr-lite run` and its recipe end it.", style="dim"))
    return Group(*parts)


def _runs(comparison: Comparison) -> Any:
    from rich.text import Text

    from seekr_lite.evaluation.scoreboard import show

    table = _table("NLL: of held-out answers, per token. heads: held for the last task. min: of learning")
    table.add_column("run", overflow="fold")
    table.add_column("method", no_wrap=True)
    for column in ("seed", "tasks", *(name for name, _ in COLUMNS.values()), "heads", "min"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in comparison.runs:
        figures = (show(getattr(run, name), digits) for name, (_, digits) in COLUMNS.items())
        heads = "–" if run.heads is None else str(run.heads)
        place = (Text(run.path), run.method, str(run.seed), _learned(run))
        table.add_row(*place, *figures, heads, f"{run.seconds / 60:.1f}")
    return table


def _learned(run: ComparedRun) -> str:
    return str(run.learned) if run.finished else f"{run.learned} of {len(run.tasks)}"


def _methods(comparison: Comparison) -> Any:
    from rich.text import Text

    table = _table("mean ± standard deviation over the seeds (n-1)")
    table.add_column("method", overflow="fold")
    for column in ("seeds", *(name for name, _ in COLUMNS.values())):
        table.add_column(column, justify="right", no_wrap=True)
    for group in comparison.groups:
        figures = (_spread(group.figures[name], digits) for name, (_, digits) in COLUMNS.items())
        table.add_row(Text(group.label), str(len(group.seeds)), *figures)
    return table


def _table(caption: str) -> Any:
    """Narrow enough for 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, caption=caption, caption_justify="left")


def _spread(value: Spread | None, digits: int) -> str:
    from seekr_lite.evaluation.scoreboard import show

    if value is None:
        return "–"
    return show(value.mean, digits) + ("" if value.std is None else f" ± {value.std:.{digits}f}")
