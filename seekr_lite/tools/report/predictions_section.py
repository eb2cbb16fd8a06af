"""Predictions beside references: every row once, with what the model wrote in each round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seekr_lite.common.errors import UserError
from seekr_lite.common.html_page import block, text
from seekr_lite.tools.report.run_facts import RunFacts

if TYPE_CHECKING:
    from seekr_lite.evaluation.evaluate import Prediction

EMBEDDED = 2000  # predictions in the page, at most, divided among the evaluations
PER_TASK = 200  # rows of a task, at most
PROMPT_CHARACTERS, ANSWER_CHARACTERS = 900, 600
HEAD = "".join(f'<th scope="col"><span class="unseen">{name}</span></th>' for name in ("round", "score", "prediction"))
RIGHT, WRONG = 99.95, 0.05  # a score that shows as 100.0, as 0.0


@dataclass
class Row:
    """A test row and its predictions: (round, prediction)."""

    task: int
    number: int
    prompt: str
    references: tuple[str, ...]
    rounds: list[tuple[int | None, Prediction]] = field(default_factory=list)


def predictions_content(facts: RunFacts) -> str:
    """The filter, and the rows; or one sentence where there are none."""
    evaluations = facts.folder.record.evaluations
    if not evaluations:
        return '<p class="empty">There are no predictions yet: nothing has been tested.</p>'
    limit = min(PER_TASK, max(1, EMBEDDED // len(evaluations)))
    rows, there, trouble = _rows(facts, limit)
    shown = sum(len(row.rounds) for row in rows)
    note = f"{shown:,} predictions are in this page"
    if there > shown:
        note += f" of {there:,} in the run folder: the first {limit} test rows of each task"
    note += f". Prompts are cut to {PROMPT_CHARACTERS} characters, answers to {ANSWER_CHARACTERS}; cuts are marked."
    problems = "".join(f'<p class="empty">{text(problem)}</p>' for problem in trouble)
    items = "".join(_item(facts, row) for row in rows)
    return (
        f'<p class="note">{note}</p>{problems}{_filter(facts, rows)}<ol class="rows" id="rows">{items}</ol>'
        '<p class="scripted"><button type="button" id="more">Show more rows</button></p>'
    )


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
        if one.task not in order:
            continue
        try:
            predictions = facts.folder.load_predictions(one.after, one.task)
        except UserError as error:
            trouble.append(str(error))
            continue
        there += len(predictions)
        for number, prediction in enumerate(predictions[:limit]):
            key = (order[one.task], number, prediction.prompt)
            row = found.setdefault(key, Row(*key[:2], prediction.prompt, prediction.references))
            row.rounds.append((one.after, prediction))
    return [found[key] for key in sorted(found)], there, trouble


def _filter(facts: RunFacts, rows: list[Row]) -> str:
    tasks = sorted({row.task for row in rows})
    rounds = sorted({-1 if after is None else after for row in rows for after, _ in row.rounds})
    task_options = [(str(task), facts.tasks[task]) for task in tasks]
    round_options = [(str(at), facts.round_name(at if at >= 0 else None)) for at in rounds]
    marks = [("right", "right"), ("partly", "partly right"), ("wrong", "wrong")]
    if not facts.joint and len(rounds) > 1:
        marks += [("lost", "lost: right when learned, not at the end"), ("gained", "gained since learned")]
    return (
        '<form class="filter scripted" id="filter" role="search" aria-label="Filter predictions">'
        f"{_select('task', 'Task', 'all tasks', task_options)}{_select('round', 'Round', 'all rounds', round_options)}"
        f"{_select('mark', 'Answer', 'right and wrong', marks)}"
        '<label>Text <input type="search" name="text" autocomplete="off"></label>'
        '<output id="count" aria-live="polite"></output></form>'
    )


def _select(name: str, title: str, everything: str, options: list[tuple[str, str]]) -> str:
    choices = "".join(f'<option value="{text(value)}">{text(label)}</option>' for value, label in options)
    return f'<label>{title} <select name="{name}"><option value="">{everything}</option>{choices}</select></label>'


def _item(facts: RunFacts, row: Row) -> str:
    name = f"{text(facts.tasks[row.task])}, row {row.number + 1}"
    references = " <i>or</i> ".join(block(one, ANSWER_CHARACTERS) for one in row.references)
    lines = "".join(_line(facts, after, prediction) for after, prediction in row.rounds)
    return (
        f'<li data-task="{row.task}" data-fate="{" ".join(_fates(facts, row))}"><div><b class="name">{name}</b>'
        f"<p>{block(row.prompt, PROMPT_CHARACTERS)}</p></div><div><p><b>Reference</b> {references}</p>"
        f'<table><caption class="unseen">Predictions, {name}</caption><thead><tr>{HEAD}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div></li>"
    )


def _line(facts: RunFacts, after: int | None, prediction: Prediction) -> str:
    kind = mark(prediction.score)
    sign = {"right": "✓ right", "wrong": "✗ wrong", "unscored": "–"}.get(kind, f"~ {prediction.score or 0:.1f}")
    return (
        f'<tr data-round="{-1 if after is None else after}" data-mark="{kind}">'
        f'<th scope="row">{text(facts.round_name(after))}</th><td class="mark">{sign}</td>'
        f"<td>{block(prediction.prediction, ANSWER_CHARACTERS)}</td></tr>"
    )


def _fates(facts: RunFacts, row: Row) -> Iterator[str]:
    """What became of a row between the round that learned its task and the last one."""
    rounds = {after: mark(prediction.score) for after, prediction in row.rounds}
    learned, last = rounds.get(row.task), rounds.get(len(facts.tasks) - 1)
    if facts.joint or learned is None or last is None:
        return
    if learned == "right" and last != "right":
        yield "lost"
    if learned != "right" and last == "right":
        yield "gained"
