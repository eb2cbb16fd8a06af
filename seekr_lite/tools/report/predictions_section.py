"""Predictions beside references: every row once, with what the model wrote in each round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.evaluation.evaluate import Prediction
from seekr_lite.tools.report.run_facts import RunFacts

EMBEDDED = 2000  # predictions in the page, at most, divided among the evaluations
PER_TASK = 200  # rows of a task, at most
PROMPT_CHARACTERS, ANSWER_CHARACTERS = 900, 600
RIGHT, WRONG = 99.95, 0.05  # a score that shows as 100.0, as 0.0
SIGNS = {"right": "✓ right", "wrong": "✗ wrong", "unscored": "–"}


@dataclass
class Row:
    """A test row and its predictions: round (None: of the bare base) -> prediction."""

    task: int
    name: str
    prompt: str
    references: tuple[str, ...]
    rounds: dict[int | None, Prediction] = field(default_factory=dict)


def predictions(facts: RunFacts) -> dict[str, Any]:
    """The rows in the page, how many predictions there are, files that cannot be read, and what the filter offers."""
    limit = min(PER_TASK, max(1, EMBEDDED // max(1, len(facts.folder.record.evaluations))))
    rows, there, trouble = _rows(facts, limit)
    rounds = sorted({-1 if after is None else after for row in rows for after in row.rounds})
    marks = [("right", "right"), ("partly", "partly right"), ("wrong", "wrong")]
    if not facts.joint and len(rounds) > 1:
        marks += [("lost", "lost: right when learned, not at the end"), ("gained", "gained since learned")]
    return {
        "rows": [_shown(facts, row) for row in rows],
        "shown": sum(len(row.rounds) for row in rows),
        "there": there,
        "limit": limit,
        "prompt_limit": PROMPT_CHARACTERS,
        "answer_limit": ANSWER_CHARACTERS,
        "trouble": trouble,
        "tasks": [(task, facts.tasks[task]) for task in sorted({row.task for row in rows})],
        "rounds": [(at, facts.round_names[at if at >= 0 else None]) for at in rounds],
        "marks": marks,
    }


def mark(score: float | None) -> str:
    """right, wrong or partly, by a row's score; unscored where it has none."""
    if score is None:
        return "unscored"
    return "right" if score >= RIGHT else "wrong" if score <= WRONG else "partly"


def _rows(facts: RunFacts, limit: int) -> tuple[list[Row], int, list[str]]:
    """The first rows of each task; how many predictions there are in all; files that cannot be read."""
    found: dict[tuple[int, int, str], Row] = {}
    there, trouble = 0, []
    order = {task: index for index, task in enumerate(facts.tasks)}
    for one in sorted(facts.folder.record.evaluations, key=lambda one: -1 if one.after is None else one.after):
        if one.task not in order or one.after not in facts.round_names:
            continue
        try:
            written = facts.folder.load_predictions(one.after, one.task)
        except UserError as error:
            trouble.append(str(error))
            continue
        there += len(written)
        for place, prediction in enumerate(written[:limit]):
            key = (order[one.task], place, prediction.prompt)
            name = f"{one.task}, row {place + 1}"
            row = found.setdefault(key, Row(key[0], name, prediction.prompt, prediction.references))
            row.rounds[one.after] = prediction
    return [found[key] for key in sorted(found)], there, trouble


def _shown(facts: RunFacts, row: Row) -> dict[str, Any]:
    lines = [
        {
            "round": -1 if after is None else after,
            "name": facts.round_names[after],
            "mark": mark(one.score),
            "sign": SIGNS.get(mark(one.score)) or f"~ {one.score:.1f}",
            "prediction": one.prediction,
        }
        for after, one in row.rounds.items()
    ]
    return {**vars(row), "lines": lines, "fate": _fate(facts, row)}


def _fate(facts: RunFacts, row: Row) -> str:
    """What became of a row between the round that learned its task and the last one."""
    learned, last = row.rounds.get(row.task), row.rounds.get(len(facts.tasks) - 1)
    if facts.joint or learned is None or last is None:
        return ""
    was_right, is_right = (mark(one.score) == "right" for one in (learned, last))
    return "" if was_right == is_right else "lost" if was_right else "gained"
