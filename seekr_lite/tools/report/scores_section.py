"""The scoreboard in a report: the matrix, the figures that sum it up, and a curve for each task."""

from __future__ import annotations

from seekr_lite.common.html_page import breakable, level, table, text
from seekr_lite.common.svg_charts import Lines, line_chart
from seekr_lite.evaluation.scoreboard import Row, Scoreboard, show
from seekr_lite.tools.report.run_facts import RunFacts

FIGURES = {
    "op": ("OP", "Overall performance: the mean of the last row. Higher is better."),
    "bwt": (
        "BWT",
        "Backward transfer: how much a score has changed since its task was learned; the mean over all tasks but the "
        "last. Below zero: forgetting.",
    ),
    "bwt_official": ("BWT, official", "The same sum divided by all tasks, as the official script prints it."),
    "forgetting": (
        "Forgetting",
        "The best score before the end less the last one; the mean over all tasks but the last. Above zero: "
        "forgetting.",
    ),
    "fwt": ("FWT", "Forward transfer: the score just before a task is learned, less the bare base's; the mean."),
    "nll": ("NLL", "Negative log-likelihood per answer token on held-out rows, after the last task. Lower is better."),
    "nll_forgetting": (
        "NLL change",
        "How much the NLL has changed since each task was learned. Above zero: forgetting.",
    ),
}


def scores_content(facts: RunFacts) -> str:
    """The matrix, the figures, the NLL matrix."""
    board = facts.board
    parts = [figures(facts), matrix_table(facts, board, "Scores from 0 to 100; higher is better")]
    parts.append(
        '<p class="note">A row: the tests made after a task was learned. A column: the task that was tested. '
        "An outlined cell is a task's score right after it was learned. The stronger the colour, the higher the score; "
        "a dash was not measured.</p>"
    )
    if board.texts:
        parts.append(
            '<p class="note">Perplexity of a text that has nothing to do with the tasks: exp of the mean negative '
            "log-likelihood per token. Higher than the bare base’s: the model has become worse at such text.</p>"
        )
    if any(value is not None for row in board.nll_matrix for value in row):
        parts.append(f"<details><summary>NLL of held-out answers</summary>{_nll_table(facts, board)}</details>")
    else:
        parts.append('<p class="note">There is no NLL: no validation rows were held out, or none is tested yet.</p>')
    return "\n".join(parts)


def figures(facts: RunFacts) -> str:
    """Each figure with what it says; and why, where it is not known."""
    cards = []
    for name, value in facts.board.summary().items():
        title, meaning = FIGURES[name]
        unknown = "" if value is not None else f' <span class="why">{text(_why_unknown(facts, name))}</span>'
        digits = 3 if "nll" in name else 1
        signed = name in ("bwt", "bwt_official", "nll_forgetting", "fwt") and value is not None and value > 0
        shown = ("+" if signed else "") + show(value, digits)
        number = f'<dd class="number">{shown.replace("-", "−")}</dd>'
        cards.append(f'<div><dt>{title}</dt>{number}<dd class="says">{meaning}{unknown}</dd></div>')
    return f'<dl class="figures">{"".join(cards)}</dl>'


def matrix_table(facts: RunFacts, board: Scoreboard, caption: str) -> str:
    """The matrix, with a column for each general text; rounds without a test are left out."""
    head = [
        "round",
        *(f"{breakable(task)}<br><small>{breakable(board.metrics.get(task, ''))}</small>" for task in board.tasks),
        *(f"{breakable(one.name)}<br><small>perplexity</small>" for one in board.texts),
    ]
    rows = [
        [
            breakable(facts.round_name(after)),
            *(_cell(value, after == task and not facts.joint) for task, value in enumerate(row)),
            *(show(value, 2) for value in texts),
        ]
        for after, row, texts in board.rounds()
    ]
    return table(head, rows or [["no tests yet", *("–" for _ in board.tasks)]], caption, "matrix")


def curves_content(facts: RunFacts) -> str:
    """A small chart for each task: its score over the rounds."""
    board = facts.recorded
    first = 0 if board.base is None else -1
    charts = []
    for task, name in enumerate(board.tasks):
        column = [row[task] for row in board.matrix]
        points = [(float(after), value) for after, value in enumerate(column) if value is not None]
        if board.base is not None and (bare := board.base[task]) is not None:
            points.insert(0, (-1.0, bare))
        learned, last = (column[task], column[-1]) if not facts.joint else (None, column[-1])
        summary = _summary(learned, last, task == len(board.tasks) - 1)
        if len(points) < 2:
            value = f"{points[0][1]:.1f}; one round, no curve" if points else "not tested yet"
            charts.append(f"<figure><figcaption><b>{text(name)}</b>: {value}</figcaption></figure>")
            continue
        spoken = ", ".join(f"{value:.1f} {facts.round_name(int(at) if at >= 0 else None)}" for at, value in points)
        chart = Lines(
            label=f"{name}: {spoken}",
            lines=[points],
            x_ticks=[(float(at), "base" if at < 0 else str(at + 1)) for at in _ticks(first, len(board.tasks))],
            y_ticks=[0, 25, 50, 75, 100],
            x_range=(first, len(board.tasks) - 1),
            borders=[] if facts.joint else [(task, "learned" if task < 0.7 * len(board.tasks) else "")],
            marked=True,
        )
        charts.append(f"<figure><figcaption><b>{text(name)}</b>: {summary}</figcaption>{line_chart(chart)}</figure>")
    rounds = "; ".join(f"{index + 1} {text(name)}" for index, name in enumerate(board.tasks))
    note = (
        "Score of each task (0 to 100) over the rounds; the upright line is the round in which it was learned. Every "
        f"recorded test is shown. Rounds: {rounds}."
    )
    return f'<p class="note">{note}</p><div class="charts">{"".join(charts)}</div>'


def verdict(facts: RunFacts) -> str:
    """The run in one or two sentences."""
    board = facts.board
    if board.op is None:
        return ""
    said = f"The last model scores {board.op:.1f} on average over {_tasks(len(board.tasks))}."
    drops = []
    if not facts.joint:
        for task, name in enumerate(board.tasks[:-1]):
            learned, last = board.matrix[task][task], board.matrix[-1][task]
            if learned is not None and last is not None:
                drops.append((last - learned, name, learned, last))
    if drops:
        change, name, learned, last = min(drops)
        if change < 0:
            said += f" {name} lost the most since it was learned: {learned:.1f} → {last:.1f}."
        else:
            said += " No task scores lower than right after it was learned."
    return text(said)


def _rounds(facts: RunFacts, base: Row | None, matrix: tuple[Row, ...]) -> list[tuple[str, Row]]:
    """(name, values) of the rounds in which something was tested."""
    rounds = [(facts.round_name(None), base)] if base is not None else []
    rounds += [(facts.round_name(after), row) for after, row in enumerate(matrix)]
    return [(name, row) for name, row in rounds if any(value is not None for value in row)]


def _cell(value: float | None, own: bool) -> str:
    if value is None:
        return '<td class="quiet">–</td>'
    note = '<span class="unseen"> (just learned)</span>' if own else ""
    return f'<td class="{level(value / 100)}{" own" if own else ""}">{value:.1f}{note}</td>'


def _nll_table(facts: RunFacts, board: Scoreboard) -> str:
    rows = [
        [breakable(name), *(show(value, 3) for value in row)]
        for name, row in _rounds(facts, board.nll_base, board.nll_matrix)
    ]
    caption = "Mean negative log-likelihood per answer token, in nats, on held-out training rows; lower is better"
    return table(["round", *map(breakable, board.tasks)], rows, caption, "matrix")


def _summary(learned: float | None, last: float | None, is_last: bool) -> str:
    if learned is None or last is None or is_last:
        return show(learned if last is None else last)
    return f"{learned:.1f} → {last:.1f} ({last - learned:+.1f})".replace("-", "−")


def _ticks(first: int, rounds: int) -> list[int]:
    """Rounds whose numbers stand below a curve: all of a few, some of many."""
    every = 1 + (rounds - first) // 12
    return [at for at in range(first, rounds) if (at + 1) % every == 0 or at == rounds - 1]


def _tasks(count: int) -> str:
    return "one task" if count == 1 else f"{count} tasks"


def _why_unknown(facts: RunFacts, name: str) -> str:
    if name == "nll" and facts.finished:
        return "Not known: no rows were held out (data.validation_rows)."
    if not facts.finished:
        return "Not known: the run is not finished."
    if facts.joint and name != "nll":
        return "Not known: a joint run learns all tasks at once and has one round."
    if len(facts.tasks) < 2:
        return "Not known: it takes two tasks."
    if name == "fwt":
        return 'Not known: it takes evaluate.rounds = "full".'
    if name == "nll_forgetting" and facts.board.nll is None:
        return "Not known: no rows were held out (data.validation_rows)."
    return "Not known: tasks were not tested right after they were learned (evaluate.rounds)."
