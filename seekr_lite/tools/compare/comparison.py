"""Runs side by side: their figures, and mean and spread over the seeds of each method.

(Not `compare.py`: the package's public function `compare` would be hidden by a module of the same name.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.runs.folder import RunFolder
from seekr_lite.tools.compare.figures import (
    ComparedRun,
    MethodGroup,
    Spread,
    _compared,
    _differences,
    _groups,
    _settings,
)


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
        from seekr_lite.tools.compare.compare_html import compare_html

        page = compare_html([RunFolder.open(run.path) for run in self.runs])
        with user_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8")

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console

        from seekr_lite.common.terminal import printable

        text = StringIO()
        Console(file=text, width=160, no_color=True, highlight=False).print(render_comparison(self))
        return printable(text.getvalue().rstrip("\n"))


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
