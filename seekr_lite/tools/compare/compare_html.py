"""Several runs in one HTML file: a table, bars with their spread by method, what differs, scoreboards side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from seekr_lite.common.errors import UserError
from seekr_lite.common.html_page import number, render, size_of
from seekr_lite.common.svg_charts import Bar, bar_chart, nice_ticks
from seekr_lite.evaluation.summary_figures import FIGURES, Figure
from seekr_lite.runs.folder import RunFolder
from seekr_lite.tools.compare.figures import MethodGroup, compared, differing, method_groups
from seekr_lite.tools.report.run_facts import RunFacts

SHOWN = {name: FIGURES[name] for name in ("op", "bwt", "forgetting", "nll")}
SECTIONS = (("runs", "Runs"), ("methods", "Methods"), ("differences", "What differs"), ("boards", "Scoreboards"))
COLUMNS = ("run", "method", "seed", *(figure.title for figure in SHOWN.values()))
COSTS = ("steps", "learning, s", "replay text", "adapters")


def compare_html(runs: Sequence[RunFolder]) -> str:
    """The whole document. Unfinished runs are shown with what they have.

    Raises:
        UserError: there is no run to compare, or one has a record or scores that cannot be read.
    """
    if not runs:
        raise UserError("there is no run to compare")
    named = dict(zip(_names(runs), map(RunFacts.of, runs), strict=True))
    recipes = [facts.recipe for facts in named.values()]
    groups = method_groups([compared(run, recipe) for run, recipe in zip(runs, recipes, strict=True)], recipes)
    differences = {key: values for key, values in differing(recipes).items() if key != "run.output"}
    return render(
        "tools/compare/compare.html.j2",
        folder="tools/compare",
        sections=SECTIONS,
        warnings=_warnings(named),
        head=(*COLUMNS, *COSTS),
        rows=[_row(name, facts) for name, facts in named.items()],
        figures=SHOWN.values(),
        charts=[(figure.title, _bars(name, figure, groups)) for name, figure in SHOWN.items()],
        runs=named,
        differences=[(key, *map(_short, values)) for key, values in differences.items()],
    )


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Folder names; whole paths, and numbers, where these would be the same."""
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    if len(set(names)) < len(names):
        names = [f"{index}: {name}" for index, name in enumerate(names, start=1)]
    return names


def _warnings(named: dict[str, RunFacts]) -> list[str]:
    said = []
    if len({facts.tasks for facts in named.values()}) > 1:
        said.append("These runs do not learn the same tasks in the same order: their figures do not compare.")
    for name, facts in named.items():
        said += [f"{name} is not finished: {'; '.join(facts.missing())}."] if facts.missing() else []
    return said + [problem for facts in named.values() for problem in facts.trouble]


def _row(run: str, facts: RunFacts) -> list[str]:
    stages, summary = facts.folder.record.stages, facts.board.summary()
    figures = [number(summary[name], figure.digits) for name, figure in SHOWN.items()]
    costs = [f"{sum(one.steps for one in stages):,}", f"{sum(one.seconds for one in stages):,.0f}"]
    stores = None if isinstance(facts.kept, UserError) else facts.kept
    costs.append(size_of(None if stores is None else sum(one.text_bytes for one in stores)))
    costs.append(size_of(None if stores is None else sum(one.adapter_bytes for one in stores)))
    return [run, facts.method, str(facts.board.seed), *figures, *costs]


def _bars(name: str, figure: Figure, groups: Sequence[MethodGroup]) -> Markup | str:
    """A bar for each group of runs; none where the figure is not known of any."""
    bars = []
    for group in groups:
        values = [value for run in group.runs if (value := getattr(run, name)) is not None]
        bars += [Bar(group.label, values)] if values else []
    if not bars:
        return ""
    known = [value for bar in bars for value in bar.values]
    spoken = "; ".join(f"{bar.name} {bar.mean:.{figure.digits}f}" for bar in bars)
    ticks = nice_ticks(min(0, *known), max(0, *known))
    return bar_chart(f"{figure.title}: {spoken}", bars, ticks, figure.digits)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
