"""Which task is tested after which, and the scoreboard that comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seekr_lite.data.task import Task
from seekr_lite.evaluation.scoreboard import Scoreboard

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
