"""Evaluations of a run's models in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seekr_lite.evaluation.scoreboard import Scoreboard
    from seekr_lite.tools.evaluate import Evaluation
    from seekr_lite.tools.general_text import TextLikelihood
    from seekr_lite.tools.harness import HarnessScore


def render_evaluations(found: Sequence[Evaluation]) -> Any:
    """A line per model and task."""
    from rich.table import Table
    from rich.text import Text

    from seekr_lite.evaluation.scoreboard import show

    table = Table(caption="NLL: of held-out answers, per token", caption_justify="left")
    for column in ("after", "task", "metric", "score", "NLL", "tested"):
        table.add_column(column, justify="right" if column in ("score", "NLL") else "left")
    for one in found:
        note = "by the run" if one.from_run else "now"
        place = Text(one.model), Text(one.task), one.metric or "–"
        table.add_row(*place, show(one.score), show(one.nll, 3), Text(note, style="dim"))
    return table


def render_likelihoods(found: Sequence[TextLikelihood], file: str, board: Scoreboard) -> Any:
    """A line per model, its scores on the tasks beside it; the change is against the first line."""
    from rich.table import Table
    from rich.text import Text

    from seekr_lite.evaluation.scoreboard import show

    table = Table(title=Text(f"{file}: {found[0].tokens:,} tokens"), title_justify="left")
    for column in ("after", *board.tasks, "NLL per token", "change", "perplexity"):
        table.add_column(Text(column), justify="left" if column == "after" else "right")
    unknown = (None,) * len(board.tasks)
    rows = {"(bare base)": board.base or unknown, "all tasks": board.matrix[-1]}
    rows |= dict(zip(board.tasks, board.matrix, strict=True))
    for one in found:
        row = rows.get(one.model, unknown)
        change = "" if one is found[0] else f"{one.nll - found[0].nll:+.3f}"
        cells = *map(show, row), f"{one.nll:.3f}", change, f"{one.perplexity:,.2f}"
        table.add_row(Text(one.model), *cells)
    return table


def render_harness(found: Sequence[HarnessScore]) -> Any:
    """A line per model, task and metric, in the harness's own units."""
    from rich.table import Table
    from rich.text import Text

    table = Table(caption="as lm-evaluation-harness computes it; ↑ higher is better, ↓ lower", caption_justify="left")
    for column in ("after", "task", "metric", "value", "± standard error", "rows"):
        table.add_column(column, justify="left" if column in ("after", "task", "metric") else "right")
    arrows = {True: " ↑", False: " ↓", None: ""}
    for one in found:
        stderr = "–" if one.stderr is None else f"{one.stderr:.4f}"
        rows = "–" if one.rows is None else f"{one.rows:,}"
        metric = f"{one.metric}{arrows[one.higher_is_better]}"
        table.add_row(Text(one.model), Text(one.task), Text(metric), f"{one.value:.4f}", stderr, rows)
    return table
