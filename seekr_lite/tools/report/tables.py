"""The scoreboard in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seekr_lite.evaluation.scoreboard import Scoreboard


def rich_table(scores: Scoreboard) -> Any:
    """Rows: after learning; columns: tested on; below, the figures that sum it up."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from seekr_lite.evaluation.scoreboard import show

    table = Table(title=Text(f"{scores.method}, seed {scores.seed}"), title_justify="left")
    table.add_column("after learning", overflow="fold")
    for task in scores.tasks:
        table.add_column(Text(f"{task}\n{scores.metrics.get(task, '')}"), justify="right", overflow="fold")
    for one in scores.texts:
        table.add_column(Text(f"{one.name}\nperplexity"), justify="right")
    for after, row, texts in scores.rounds():
        style = "bold" if after == len(scores.tasks) - 1 else None
        name = "(bare base)" if after is None else scores.tasks[after]
        cells = [*(show(value) for value in row), *(show(value, 2) for value in texts)]
        table.add_row(Text(name), *cells, style=style)
    lines = [
        f"OP {show(scores.op)}   mean of the last row",
        f"BWT {show(scores.bwt)}   change since each task was learned, over T-1 tasks; "
        f"over T, as the official script: {show(scores.bwt_official)}",
        f"forgetting {show(scores.forgetting)}   best score before the end, less the last",
        f"FWT {show(scores.fwt)}   score before a task was learned, less the bare base's",
        f"NLL {show(scores.nll, 3)}   of held-out answers, per token; since each task was learned "
        + ("+" if (scores.nll_forgetting or 0) >= 0 and scores.nll_forgetting is not None else "")
        + show(scores.nll_forgetting, 3),
    ]
    return Group(table, *(Text(line) for line in lines))
