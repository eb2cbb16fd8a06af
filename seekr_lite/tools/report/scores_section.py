"""The scoreboard in a report: the figures that sum it up, the result in a sentence, the rows of the NLL table."""

from __future__ import annotations

from seekr_lite.common.html_page import number
from seekr_lite.evaluation.summary_figures import FIGURES
from seekr_lite.tools.report.run_facts import RunFacts

CHANGES = ("bwt", "bwt_official", "fwt", "nll_forgetting")  # shown with their sign


def figures(facts: RunFacts) -> list[dict[str, str]]:
    """All figures of the scoreboard; unknown: why one is not known, where it is not."""
    found = []
    for name, value in facts.board.summary().items():
        figure = FIGURES[name]
        sign = "+" if name in CHANGES and value is not None and value > 0 else ""
        unknown = _why_unknown(facts, name) if value is None else ""
        shown = sign + number(value, figure.digits)
        found.append({"title": figure.title, "meaning": figure.meaning, "value": shown, "unknown": unknown})
    return found


def verdict(facts: RunFacts) -> str:
    """The run in one or two sentences; empty where its end is not known."""
    board = facts.board
    if board.op is None:
        return ""
    over = f"{len(board.counted)} tasks" if len(board.counted) > 1 else "one task"
    said = f"The last model scores {board.op:.1f} on average over {over}."
    if board.untested:
        said += f" Without test rows, and so without a score: {', '.join(board.untested)}."
    drops = []
    for task, name in enumerate([] if facts.joint else board.tasks[:-1]):
        learned, last = board.matrix[task][task], board.matrix[-1][task]
        if learned is not None and last is not None:
            drops.append((last - learned, name, learned, last))
    if drops:
        change, name, learned, last = min(drops)
        if change < 0:
            said += f" {name} lost the most since it was learned: {learned:.1f} → {last:.1f}."
        else:
            said += " No task scores lower than right after it was learned."
    return said


def nll_rows(facts: RunFacts) -> list[tuple[str, ...]]:
    """The name of each round in which something was tested, and the NLL of each task."""
    base, matrix = facts.board.nll_base, facts.board.nll_matrix
    rounds = [*([(None, base)] if base else []), *enumerate(matrix)]
    return [
        (facts.round_names[after], *(number(value, 3) for value in row))
        for after, row in rounds
        if any(value is not None for value in row)
    ]


def _why_unknown(facts: RunFacts, name: str) -> str:
    held_out = "no rows were held out (data.validation_rows)"
    if name == "nll" and facts.finished:
        return held_out
    if not facts.finished:
        return "the run is not finished"
    if facts.joint and name != "nll":
        return "a joint run learns all tasks at once and has one round"
    if len(facts.tasks) < 2:
        return "it takes two tasks"
    if not name.startswith("nll") and len(facts.board.counted) < 2:
        return "too few tasks have test rows"
    if name == "fwt":
        return 'it takes evaluate.rounds = "full"'
    if name == "nll_forgetting" and facts.board.nll is None:
        return held_out
    return "tasks were not tested right after they were learned (evaluate.rounds)"
