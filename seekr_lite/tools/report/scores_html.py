"""The scoreboard as an HTML table, for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seekr_lite.evaluation.scoreboard import Scoreboard


def scores_html(scores: Scoreboard) -> str:
    """One table; everything that comes from data is escaped."""
    from seekr_lite.evaluation.scoreboard import show

    head = "".join(
        f"<th>{escape(task)}<br><small>{escape(scores.metrics.get(task, ''))}</small></th>" for task in scores.tasks
    )
    head += "".join(f"<th>{escape(one.name)}<br><small>perplexity</small></th>" for one in scores.texts)
    body = "".join(
        f"<tr><th>{'(bare base)' if after is None else escape(scores.tasks[after])}</th>"
        + "".join(f"<td>{show(value)}</td>" for value in row)
        + "".join(f"<td>{show(value, 2)}</td>" for value in texts)
        + "</tr>"
        for after, row, texts in scores.rounds()
    )
    summary = ", ".join(
        f"{escape(name)} {show(value, 3 if 'nll' in name else 1)}" for name, value in scores.summary().items()
    )
    return (
        f"<table><caption>{escape(scores.method)}, seed {scores.seed}: {summary}</caption>"
        f"<thead><tr><th>after learning</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
