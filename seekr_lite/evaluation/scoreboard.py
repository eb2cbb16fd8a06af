"""The scoreboard of a run: every task's score after every task, and the figures that sum it up.

`matrix[r][t]` is the score (0 to 100) on task t after task r was learned; None where it was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, Strict, TypeAdapter, ValidationError
from rich.console import Group
from rich.table import Table
from rich.text import Text

from seekr_lite.common.errors import UserError, brief, check_task_name
from seekr_lite.common.html_page import render
from seekr_lite.common.terminal import as_text
from seekr_lite.evaluation.summary_figures import FIGURES

Number = Annotated[float, Strict(), Field(gt=-1e300, lt=1e300, allow_inf_nan=False)]
Row = tuple[Number | None, ...]
Matrix = tuple[Row, ...]
Evaluation = tuple[int | None, int]  # (after which task; None: the bare base, which task)


@dataclass(frozen=True)
class TextColumn:
    """A general text beside the matrix: its mean negative log-likelihood per token (nats), under the bare base and
    after each task; None where it was not measured. name: of its file."""

    name: str
    tokens: int
    base: float | None
    nll: Row

    def perplexity(self, after: int | None) -> float | None:
        """After a task, or (None) of the bare base."""
        return perplexity(self.base if after is None else self.nll[after])

    def to_json(self) -> dict[str, Any]:
        """Plain values; a perplexity beyond all numbers is null."""
        base, *found = (self.perplexity(after) for after in (None, *range(len(self.nll))))
        finite = [value if value is None or value < math.inf else None for value in (base, *found)]
        return {"name": self.name, "tokens": self.tokens, "base": finite[0], "perplexity": finite[1:]}


@dataclass(frozen=True)
class Scoreboard:
    """Scores and negative log-likelihoods of a sequence of tasks.

    base, nll_base: the bare base, before any task; None where it was not measured.
    nll_matrix: mean negative log-likelihood per answer token (nats) on the validation rows.
    untested: tasks without test rows. Their scores are unknown, and every mean of scores leaves them out.
    texts: general texts that were measured since; no part of `scores.json`.
    """

    tasks: tuple[str, ...]
    metrics: dict[str, str]
    matrix: Matrix
    method: str
    seed: Annotated[int, Strict()]
    base: Row | None = None
    nll_matrix: Matrix = ()
    nll_base: Row | None = None
    untested: tuple[str, ...] = ()
    texts: tuple[TextColumn, ...] = ()

    @property
    def counted(self) -> list[int]:
        """The tasks that means of scores are over: all that have test rows."""
        return [index for index, task in enumerate(self.tasks) if task not in self.untested]

    @property
    def note(self) -> str:
        """Which tasks the means leave out, in words; empty where they leave out none."""
        return untested_note(self.untested, len(self.tasks)) if self.untested else ""

    @property
    def op(self) -> float | None:
        """Overall performance: mean of the last row (SEEKR, section 4.1)."""
        return _mean([self.matrix[-1][task] for task in self.counted])

    @property
    def bwt(self) -> float | None:
        """Backward transfer: mean over t < T-1 of (last score - score right after task t), over T-1 tasks
        (Lopez-Paz & Ranzato 2017, arXiv 1706.08840). Below zero: forgetting."""
        return _mean(self._changes())

    @property
    def bwt_official(self) -> float | None:
        """The same sum over T, with a zero for the last task, as the official script prints."""
        last = [0.0] if len(self.tasks) - 1 in self.counted else []
        return _mean([*self._changes(), *last]) if self._changes() else None

    @property
    def forgetting(self) -> float | None:
        """Mean over t < T-1 of (best score of task t before the end - last score) (Chaudhry et al. 2018,
        arXiv 1801.10112), over the scores that were measured. Above zero: forgetting."""
        drops = []
        for task in self._old_tasks():
            earlier = [score for row in self.matrix[task:-1] if (score := row[task]) is not None]
            drops.append(_less(max(earlier, default=None), self.matrix[-1][task]))
        return _mean(drops)

    @property
    def fwt(self) -> float | None:
        """Forward transfer: mean over t >= 1 of (score before task t was learned - score of the bare base)
        (Lopez-Paz & Ranzato 2017). Known where the rounds are "full"."""
        if self.base is None:
            return None
        return _mean([_less(self.matrix[t - 1][t], self.base[t]) for t in self.counted if t > 0])

    @property
    def nll(self) -> float | None:
        """Mean of the last row of `nll_matrix`."""
        return _mean(self.nll_matrix[-1]) if self.nll_matrix else None

    @property
    def nll_forgetting(self) -> float | None:
        """Mean over t < T-1 of (last NLL - NLL right after task t). Above zero: forgetting."""
        if not self.nll_matrix:
            return None
        last = self.nll_matrix[-1]
        return _mean([_less(last[t], self.nll_matrix[t][t]) for t in range(len(self.tasks) - 1)])

    def _old_tasks(self) -> list[int]:
        return [task for task in self.counted if task < len(self.tasks) - 1]

    def _changes(self) -> list[float | None]:
        return [_less(self.matrix[-1][t], self.matrix[t][t]) for t in self._old_tasks()]

    def rounds(self) -> list[tuple[int | None, Row, tuple[float | None, ...]]]:
        """The rows that have something to show: (after which task, scores, perplexity of each text); the bare base
        is None."""
        rows = [(None, self.base or (None,) * len(self.tasks)), *enumerate(self.matrix)]
        found = [(after, row, tuple(one.perplexity(after) for one in self.texts)) for after, row in rows]
        return [one for one in found if any(value is not None for value in (*one[1], *one[2]))]

    def summary(self) -> dict[str, float | None]:
        """The figures by name."""
        return {name: getattr(self, name) for name in FIGURES}

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `scores.json`."""
        return {
            "tasks": list(self.tasks),
            "metrics": dict(self.metrics),
            "method": self.method,
            "seed": self.seed,
            "matrix": [list(row) for row in self.matrix],
            "base": None if self.base is None else list(self.base),
            "nll_matrix": [list(row) for row in self.nll_matrix],
            "nll_base": None if self.nll_base is None else list(self.nll_base),
            **self.summary(),
            **({"untested": list(self.untested)} if self.untested else {}),
            **({"texts": [one.to_json() for one in self.texts]} if self.texts else {}),
        }

    @classmethod
    def from_json(cls, values: Any) -> Scoreboard:
        """Raises `UserError` where the values are no scoreboard. The figures that sum it up are not read."""
        parts = ("tasks", "metrics", "matrix", "method", "seed", "base", "nll_matrix", "nll_base")
        try:
            read = {name: values[name] for name in parts} | {"untested": values.get("untested", [])}
            board = TypeAdapter(cls).validate_python(read)
            _check(board)
            return board
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise UserError(f"these scores are damaged: {brief(place)}: {brief(first['msg'])}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"these scores are damaged: {error!r}") from None

    def table(self) -> Group:
        """For a terminal. Rows: after learning; columns: tested on; below, the figures that sum it up."""
        table = Table(title=Text(f"{self.method}, seed {self.seed}"), title_justify="left")
        table.add_column("after learning", overflow="fold")
        for task in self.tasks:
            table.add_column(Text(f"{task}\n{self.metrics.get(task, '')}"), justify="right", overflow="fold")
        for one in self.texts:
            table.add_column(Text(f"{one.name}\nperplexity"), justify="right")
        for after, row, texts in self.rounds():
            name = "(bare base)" if after is None else self.tasks[after]
            cells = [*(show(value) for value in row), *(show(value, 2) for value in texts)]
            table.add_row(Text(name), *cells, style="bold" if after == len(self.tasks) - 1 else None)
        sign = "+" if self.nll_forgetting is not None and self.nll_forgetting >= 0 else ""
        lines = [
            f"OP {show(self.op)}   mean of the last row",
            f"BWT {show(self.bwt)}   change since each task was learned, over T-1 tasks; "
            f"over T, as the official script: {show(self.bwt_official)}",
            f"forgetting {show(self.forgetting)}   best score before the end, less the last",
            f"FWT {show(self.fwt)}   score before a task was learned, less the bare base's",
            f"NLL {show(self.nll, 3)}   of held-out answers, per token; since each task was learned "
            f"{sign}{show(self.nll_forgetting, 3)}",
            *([self.note] if self.note else []),
        ]
        return Group(table, *map(Text, lines))

    def _repr_html_(self) -> str:
        figures = [f"{name} {show(value, FIGURES[name].digits)}" for name, value in self.summary().items()]
        caption = f"{self.method}, seed {self.seed}: {', '.join(figures)}"
        names = {after: "(bare base)" if after is None else self.tasks[after] for after, *_ in self.rounds()}
        return render("evaluation/scoreboard.html.j2", board=self, caption=caption, names=names, outlined=False)

    def __str__(self) -> str:
        return as_text(self.table())


def show(value: float | None, digits: int = 1) -> str:
    """A number for people; a dash for what is not known."""
    return "–" if value is None else f"{value:.{digits}f}"


def untested_note(untested: Sequence[str], tasks: int) -> str:
    """What tasks without test rows mean for the figures of a run of so many tasks."""
    return (
        f"no test rows, so the score is not known: {', '.join(untested)}; "
        f"OP, BWT, forgetting and FWT are over {tasks - len(untested)} of {tasks} tasks"
    )


def perplexity(nll: float | None) -> float | None:
    """exp of a mean negative log-likelihood in nats; beyond all numbers, infinity."""
    return None if nll is None else math.exp(nll) if nll < 700 else math.inf


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a value is not known, and where there is none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _check(board: Scoreboard) -> None:
    """Raises `ValueError` where names or sizes do not fit together."""
    tasks, count = set(board.tasks), len(board.tasks)
    if not tasks or len(tasks) != count or set(board.metrics) != tasks or not tasks >= set(board.untested):
        raise ValueError("tasks must be different names, each with its metric")
    for text in (*tasks, *board.metrics.values(), board.method):
        if not text.isprintable():
            raise ValueError(f"a plain text is needed, not {brief(text)}")
    try:
        for task in board.tasks:
            check_task_name(task)
    except UserError as error:
        raise ValueError(str(error)) from None
    rows = [*board.matrix, *board.nll_matrix, *(row for row in (board.base, board.nll_base) if row is not None)]
    if any(len(row) != count for row in rows) or len(board.matrix) != count or len(board.nll_matrix) not in (0, count):
        raise ValueError(f"{count} rows of {count} numbers are needed")


def planned_evaluations(tasks: int, rounds: str, joint: bool) -> list[Evaluation]:
    """The evaluations of a run of `tasks` tasks, in the order in which they can be done."""
    last = tasks - 1
    if rounds == "last" or (joint and rounds == "diagonal-and-last"):
        return [(last, task) for task in range(tasks)]
    if joint:
        return [*((None, task) for task in range(tasks)), *((last, task) for task in range(tasks))]
    if rounds == "full":
        return [(after, task) for after in (None, *range(tasks)) for task in range(tasks)]
    diagonal: list[Evaluation] = [(task, task) for task in range(last)]
    return [*diagonal, *((last, task) for task in range(tasks))]


def scoreboard(
    metrics: Mapping[str, str | None],
    results: Mapping[Evaluation, tuple[float | None, float | None]],
    method: str,
    seed: int,
) -> Scoreboard:
    """The scoreboard of tasks and their metrics (None: not known), from results (after, task) -> (score, NLL).

    A result without a score is that of a task without test rows; one that is missing was not measured yet.
    """
    tasks = tuple(metrics)

    def row(part: int, after: int | None) -> Row:
        return tuple(results.get((after, task), (None, None))[part] for task in range(len(tasks)))

    def base(part: int) -> Row | None:
        return row(part, None) if any(value is not None for value in row(part, None)) else None

    without = {tasks[task] for (_, task), (score, _) in results.items() if score is None}
    return Scoreboard(
        tasks=tasks,
        metrics={task: metric for task, metric in metrics.items() if metric is not None},
        matrix=tuple(row(0, after) for after in range(len(tasks))),
        base=base(0),
        nll_matrix=tuple(row(1, after) for after in range(len(tasks))),
        nll_base=base(1),
        untested=tuple(task for task in tasks if task in without),
        method=method,
        seed=seed,
    )
