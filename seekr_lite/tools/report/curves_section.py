"""The scores of each task over the rounds, as curves."""

from __future__ import annotations

from markupsafe import Markup

from seekr_lite.common.html_page import number
from seekr_lite.common.svg_charts import line_chart
from seekr_lite.tools.report.run_facts import RunFacts


def score_curve(facts: RunFacts, task: int, name: str) -> tuple[str, str, Markup | str]:
    """A task's name, its scores in words, and the chart; no chart where there is one score."""
    board, rounds = facts.recorded, len(facts.tasks)
    column = [row[task] for row in board.matrix]
    bare = None if board.base is None else board.base[task]
    points = [(float(after), value) for after, value in enumerate([bare, *column], start=-1) if value is not None]
    if not points:
        return name, "no test rows" if name in board.untested else "not tested yet", ""
    if len(points) == 1:
        return name, f"{points[0][1]:.1f}; one round, no curve", ""
    learned, last = None if facts.joint else column[task], column[-1]
    words = number(learned if last is None else last, 1)
    if learned is not None and last is not None and task < rounds - 1:
        words = f"{learned:.1f} → {last:.1f} ({last - learned:+.1f})".replace("-", "−")
    first = 0 if board.base is None else -1
    every = 1 + (rounds - first) // 12  # all numbers of a few rounds, some of many
    ticks = [at for at in range(first, rounds) if (at + 1) % every == 0 or at == rounds - 1]
    spoken = ", ".join(f"{value:.1f} {facts.round_names[int(at) if at >= 0 else None]}" for at, value in points)
    chart = line_chart(
        label=f"{name}: {spoken}",
        line=points,
        x_ticks=[(float(at), "base" if at < 0 else str(at + 1)) for at in ticks],
        y_ticks=[0, 25, 50, 75, 100],
        x_range=(first, rounds - 1),
        borders=[] if facts.joint else [(task, "learned" if task < 0.7 * rounds else "")],
        marked=True,
    )
    return name, words, chart
