"""The scoreboard of a run: every task's score after every task, and the figures that sum it up.

`matrix[r][t]` is the score (0 to 100) on task t after task r was learned; None where it was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from seekr_lite.common.errors import UserError, check_task_name, shown
from seekr_lite.data.task import Task

Row = tuple[float | None, ...]
Matrix = tuple[Row, ...]


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
        found = [self.perplexity(after) for after in range(len(self.nll))]
        return {
            "name": self.name,
            "tokens": self.tokens,
            "base": _finite(self.perplexity(None)),
            "perplexity": [_finite(value) for value in found],
        }


@dataclass(frozen=True)
class Scoreboard:
    """Scores and negative log-likelihoods of a sequence of tasks.

    base, nll_base: the bare base, before any task; None where it was not measured.
    nll_matrix: mean negative log-likelihood per answer token (nats) on the validation rows.
    texts: general texts that were measured since; no part of `scores.json`.
    """

    tasks: tuple[str, ...]
    metrics: dict[str, str]
    matrix: Matrix
    method: str
    seed: int
    base: Row | None = None
    nll_matrix: Matrix = field(default=())
    nll_base: Row | None = None
    texts: tuple[TextColumn, ...] = ()

    @property
    def op(self) -> float | None:
        """Overall performance: mean of the last row (SEEKR, section 4.1)."""
        return _mean(self.matrix[-1])

    @property
    def bwt(self) -> float | None:
        """Backward transfer: mean over t < T-1 of (last score - score right after task t), over T-1 tasks
        (Lopez-Paz & Ranzato 2017, arXiv 1706.08840). Below zero: forgetting."""
        return _mean(self._changes()) if len(self.tasks) > 1 else None

    @property
    def bwt_official(self) -> float | None:
        """The same sum over T, with a zero for the last task, as the official script prints."""
        return _mean([*self._changes(), 0.0]) if len(self.tasks) > 1 else None

    @property
    def forgetting(self) -> float | None:
        """Mean over t < T-1 of (best score of task t before the end - last score) (Chaudhry et al. 2018,
        arXiv 1801.10112), over the scores that were measured. Above zero: forgetting."""
        last, drops = len(self.tasks) - 1, []
        for task in range(last):
            earlier = [row[task] for row in self.matrix[task:last] if row[task] is not None]
            final = self.matrix[last][task]
            if not earlier or final is None:
                return None
            drops.append(max(score for score in earlier if score is not None) - final)
        return _mean(drops) if drops else None

    @property
    def fwt(self) -> float | None:
        """Forward transfer: mean over t >= 1 of (score before task t was learned - score of the bare base)
        (Lopez-Paz & Ranzato 2017). Known where the rounds are "full"."""
        if self.base is None or len(self.tasks) < 2:
            return None
        return _mean([_less(self.matrix[t - 1][t], self.base[t]) for t in range(1, len(self.tasks))])

    @property
    def nll(self) -> float | None:
        """Mean of the last row of `nll_matrix`."""
        return _mean(self.nll_matrix[-1]) if self.nll_matrix else None

    @property
    def nll_forgetting(self) -> float | None:
        """Mean over t < T-1 of (last NLL - NLL right after task t). Above zero: forgetting."""
        if not self.nll_matrix or len(self.tasks) < 2:
            return None
        last = self.nll_matrix[-1]
        return _mean([_less(last[t], self.nll_matrix[t][t]) for t in range(len(self.tasks) - 1)])

    def _changes(self) -> list[float | None]:
        return [_less(self.matrix[-1][t], self.matrix[t][t]) for t in range(len(self.tasks) - 1)]

    def rounds(self) -> list[tuple[int | None, Row, tuple[float | None, ...]]]:
        """The rows that have something to show: (after which task, scores, perplexity of each text); the bare base
        is None."""
        bare = self.base if self.base is not None else (None,) * len(self.tasks)
        rows = [(None, bare), *enumerate(self.matrix)]
        found = [(after, row, tuple(one.perplexity(after) for one in self.texts)) for after, row in rows]
        return [
            (after, row, texts) for after, row, texts in found if any(value is not None for value in (*row, *texts))
        ]

    def summary(self) -> dict[str, float | None]:
        """The figures by name."""
        return {
            "op": self.op,
            "bwt": self.bwt,
            "bwt_official": self.bwt_official,
            "forgetting": self.forgetting,
            "fwt": self.fwt,
            "nll": self.nll,
            "nll_forgetting": self.nll_forgetting,
        }

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
            **({"texts": [one.to_json() for one in self.texts]} if self.texts else {}),
        }

    @classmethod
    def from_json(cls, values: Any) -> Scoreboard:
        """Raises `UserError` where the values are no scoreboard. The figures that sum it up are not read."""
        try:
            tasks = tuple(_name(task) for task in _list(values["tasks"]))
            metrics = {_text(task): _text(metric) for task, metric in values["metrics"].items()}
            if not tasks or len(set(tasks)) != len(tasks) or set(metrics) != set(tasks):
                raise ValueError("tasks must be different names, each with its metric")
            seed = values["seed"]
            if type(seed) is not int:
                raise ValueError(f"the seed must be a whole number, not {shown(seed)}")
            return cls(
                tasks=tasks,
                metrics=metrics,
                matrix=_matrix(values["matrix"], len(tasks)),
                base=_row(values["base"], len(tasks)) if values["base"] is not None else None,
                nll_matrix=_matrix(values["nll_matrix"], len(tasks)) if values["nll_matrix"] else (),
                nll_base=_row(values["nll_base"], len(tasks)) if values["nll_base"] is not None else None,
                method=_text(values["method"]),
                seed=seed,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"these scores are damaged: {error!r}") from None

    def _repr_html_(self) -> str:
        pass

        return scores_html(self)

    def __str__(self) -> str:
        width = max(len("(bare base)"), *(len(task) for task in self.tasks))
        lines = [f"{self.method}, seed {self.seed}; rows: after learning, columns: tested on"]
        if self.texts:
            lines[0] += "; last: perplexity of " + ", ".join(one.name for one in self.texts)
        for after, row, texts in self.rounds():
            cells = [*(f"{show(value):>6}" for value in row), *(f"{show(value, 2):>8}" for value in texts)]
            lines.append(f"{'(bare base)' if after is None else self.tasks[after]:<{width}}  " + "  ".join(cells))
        figures = "  ".join(f"{name} {show(value)}" for name, value in self.summary().items())
        return "\n".join([*lines, figures])


def show(value: float | None, digits: int = 1) -> str:
    """A number for people; a dash for what is not known."""
    return "–" if value is None else f"{value:.{digits}f}"


def perplexity(nll: float | None) -> float | None:
    """exp of a mean negative log-likelihood in nats; beyond all numbers, infinity."""
    return None if nll is None else math.exp(nll) if nll < 700 else math.inf


def _finite(value: float | None) -> float | None:
    return value if value is None or value < math.inf else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"a plain text is needed, not {shown(value)}")
    return value


def _name(value: Any) -> str:
    try:
        check_task_name(_text(value))
    except UserError as error:
        raise ValueError(str(error)) from None
    return str(value)


def _list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"a list is needed, not {shown(values)}")
    return values


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError(f"a finite number or null is needed, not {shown(value)}")
    return float(value)


def _row(values: Any, length: int) -> Row:
    row = tuple(_number(value) for value in _list(values))
    if len(row) != length:
        raise ValueError(f"a row of {length} numbers is needed, not {shown(row)}")
    return row


def _matrix(values: Any, length: int) -> Matrix:
    rows = tuple(_row(row, length) for row in _list(values))
    if len(rows) != length:
        raise ValueError(f"{length} rows are needed, not {len(rows)}")
    return rows


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


Evaluation = tuple[int | None, int]  # (after which task; None: the bare base, which task)


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
    tasks: Sequence[Task], results: Mapping[Evaluation, tuple[float, float | None]], method: str, seed: int
) -> Scoreboard:
    """The scoreboard of results (after, task) -> (score, NLL)."""
    count = len(tasks)

    def rows(part: int) -> tuple[tuple[float | None, ...], ...]:
        return tuple(
            tuple(results[(after, task)][part] if (after, task) in results else None for task in range(count))
            for after in range(count)
        )

    def base(part: int) -> tuple[float | None, ...] | None:
        found = tuple(results[(None, task)][part] if (None, task) in results else None for task in range(count))
        return found if any(value is not None for value in found) else None

    return Scoreboard(
        tasks=tuple(task.name for task in tasks),
        metrics={task.name: task.metric for task in tasks},
        matrix=rows(0),
        base=base(0),
        nll_matrix=rows(1),
        nll_base=base(1),
        method=method,
        seed=seed,
    )
