"""What a run knows of its model's attention heads: their scores by task, which were chosen, how the choice moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seekr_lite.attention.selection import Head
from seekr_lite.common.errors import UserError
from seekr_lite.common.packages import load_extra
from seekr_lite.recipe.method_names import HEADS_FOLDER, SCORING_METHODS
from seekr_lite.recipe.problems import nearest

if TYPE_CHECKING:
    from seekr_lite.runs.folder import RunFolder

MEASURES = ("importance", "sensitivity", "forgettability")  # the most telling first
COLUMNS = ("sensitivity", "forgettability", "importance")  # in tables and files, in the order they are made


@dataclass(frozen=True, eq=False)
class TaskHeads:
    """The heads as one task scored them; tensors `[layers, heads]`, on the host.

    importance is accumulated over the tasks so far. forgettability and importance are None where the bare base was
    scored: it has learned nothing, so no map of it has moved. chosen: sorted (layer, head) pairs.
    """

    task: str
    sensitivity: torch.Tensor
    forgettability: torch.Tensor | None
    importance: torch.Tensor | None
    chosen: tuple[Head, ...]

    @property
    def measures(self) -> dict[str, torch.Tensor]:
        """The measures that exist, by name, the most telling first."""
        found = {name: getattr(self, name) for name in MEASURES}
        return {name: values for name, values in found.items() if values is not None}

    def measure(self, name: str | None = None) -> tuple[str, torch.Tensor]:
        """A measure and its name; by default importance, and where there is none sensitivity.

        Raises:
            UserError: there is no measure of that name, or this task has none.
        """
        name = name or next(iter(self.measures))
        if name not in MEASURES:
            raise UserError(f'measure "{name}": allowed: {", ".join(MEASURES)}{nearest(name, MEASURES)}')
        if name not in self.measures:
            raise UserError(
                f'measure "{name}": the bare base has none, as it has learned nothing; allowed: '
                + ", ".join(self.measures)
            )
        return name, self.measures[name]

    def top(self, count: int = 10, measure: str | None = None) -> list[TopHead]:
        """The heads with the largest values, largest first, each with its share of the sum over all heads."""
        values = self.measure(measure)[1]
        total, width = float(values.sum()), values.shape[1]
        best = torch.argsort(values.flatten(), descending=True, stable=True)[:count].tolist()
        return [
            TopHead(
                index // width, index % width, float(values.flatten()[index]), _share(values.flatten()[index], total)
            )
            for index in best
        ]

    def chosen_by_layer(self) -> dict[int, list[int]]:
        """layer -> its chosen heads."""
        layers: dict[int, list[int]] = {}
        for layer, head in self.chosen:
            layers.setdefault(layer, []).append(head)
        return layers


@dataclass(frozen=True)
class TopHead:
    """A head, its value, and the share of it in the sum over all heads."""

    layer: int
    head: int
    value: float
    share: float


@dataclass(frozen=True)
class ChoiceChange:
    """How alike the chosen heads of two consecutive tasks are: the Jaccard index, 1 for equal, 0 for disjoint."""

    before: str
    after: str
    jaccard: float


@dataclass(frozen=True, eq=False)
class Heads:
    """The heads after each finished task, in the order of learning. In a notebook it shows itself."""

    tasks: tuple[TaskHeads, ...]

    @classmethod
    def of_run(cls, folder: RunFolder) -> Heads:
        """Reads the head scores of a run.

        Raises:
            UserError: no task has ended yet, the run's method scores no heads, or a file is missing or damaged.
        """
        stages = folder.record.stages
        if not stages:
            raise UserError(f"{folder.path}: this run has learned no task yet, so it holds no head scores")
        if not folder.holds_heads:
            raise UserError(
                f'{folder.path}: this run holds no head scores: its method is "{folder.record.method}", and heads '
                f"are scored by {' and '.join(SCORING_METHODS)} alone; "
                "`seekr-lite heads score RECIPE --task TASK --run RUN` scores them now"
            )
        tasks = []
        for index, stage in enumerate(stages):
            tensors, values = folder.load_state(index, HEADS_FOLDER)
            try:
                scores = {name: tensors[name] for name in COLUMNS}
                chosen = _pairs(values["heads"])
                _check_scores(scores, chosen)
                tasks.append(TaskHeads(stage.tasks[0], **scores, chosen=chosen))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UserError(f"{folder.path / HEADS_FOLDER / stage.name}.*: damaged: {error!r}") from None
        return cls(tuple(tasks))

    def of(self, after: str | None = None) -> TaskHeads:
        """The heads after a task, by default the last. Raises `UserError` for a task that is not there."""
        by_task = {task.task: task for task in self.tasks}
        if after is None:
            return self.tasks[-1]
        if after not in by_task:
            raise UserError(f'after "{after}": there are head scores of {", ".join(by_task)}{nearest(after, by_task)}')
        return by_task[after]

    def top(self, count: int = 10, measure: str | None = None, after: str | None = None) -> list[TopHead]:
        """The heads with the largest values after a task; see `TaskHeads.top`."""
        return self.of(after).top(count, measure)

    def change(self) -> list[ChoiceChange]:
        """How much the choice of heads stayed, from each task to the next."""
        return [
            ChoiceChange(one.task, two.task, jaccard(one.chosen, two.chosen))
            for one, two in zip(self.tasks, self.tasks[1:], strict=False)
        ]

    # ------------------------------------------------------------------ tables, pictures, files

    def to_pandas(self) -> Any:
        """A data frame with a row for each task, layer and head: sensitivity, forgettability, importance, chosen."""
        rows = []
        for task in self.tasks:
            chosen = set(task.chosen)
            for layer, head in ((int(i), int(j)) for i, j in torch.ones_like(task.sensitivity).nonzero()):
                values = {name: float(measure[layer, head]) for name, measure in task.measures.items()}
                rows.append(
                    {"task": task.task, "layer": layer, "head": head}
                    | {name: values.get(name) for name in COLUMNS}
                    | {"chosen": (layer, head) in chosen}
                )
        return load_extra("pandas", "plot").DataFrame(rows)

    def plot(self, measure: str | None = None, after: str | None = None) -> Any:
        """A matplotlib figure: layers x heads, the chosen heads marked. By default importance after the last task."""
        from seekr_lite.tools.heads.heads_plot import heads_figure

        return heads_figure(self.of(after), measure)

    def save_png(self, path: str | Path, measure: str | None = None, after: str | None = None) -> None:
        """Writes `plot(...)` as a PNG. Raises `UserError` where the file cannot be written."""
        from seekr_lite.common.files import user_file

        figure = self.plot(measure, after)
        with user_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)

    def save_html(self, path: str | Path) -> None:
        """Writes one HTML file that needs nothing else. Raises `UserError` where it cannot be written."""
        from seekr_lite.common.files import user_file
        from seekr_lite.tools.heads.heads_html import heads_page

        with user_file(path) as temporary:
            temporary.write_text(heads_page(self), encoding="utf-8")

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        tasks = [
            {
                "task": task.task,
                **{name: task.measures[name].tolist() if name in task.measures else None for name in COLUMNS},
                "chosen": [list(head) for head in task.chosen],
            }
            for task in self.tasks
        ]
        return {"tasks": tasks, "change": [vars(change) for change in self.change()]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Heads:
        """The inverse of `to_json`."""
        return cls(
            tuple(
                TaskHeads(
                    task["task"],
                    torch.tensor(task["sensitivity"]),
                    _tensor(task["forgettability"]),
                    _tensor(task["importance"]),
                    chosen=_pairs(task["chosen"]),
                )
                for task in values["tasks"]
            )
        )

    def _repr_html_(self) -> str:
        from seekr_lite.tools.heads.heads_html import heads_fragment

        return heads_fragment(self, self.tasks[-1:])

    def __repr__(self) -> str:
        return f"Heads({', '.join(task.task for task in self.tasks)})"


def jaccard(one: tuple[Head, ...], two: tuple[Head, ...]) -> float:
    """Size of the intersection over size of the union; 1 for two empty sets."""
    union = set(one) | set(two)
    return len(set(one) & set(two)) / len(union) if union else 1.0


def shades(values: torch.Tensor) -> torch.Tensor:
    """Values as shades from 0 to 1: square roots of their shares of the largest.

    A few heads carry most of the weight; on a straight scale all others would look like nothing.
    """
    largest = float(values.max())
    return (values.clamp(min=0) / largest).sqrt() if largest > 0 else torch.zeros_like(values)


def _check_scores(scores: Mapping[str, torch.Tensor], chosen: Sequence[Head]) -> None:
    """Raises `ValueError` where scores are no tables of one size, hold what is no number, or lack a chosen head."""
    (shape, *others) = {tuple(values.shape) for values in scores.values()}
    if others or len(shape) != 2 or 0 in shape:
        raise ValueError(f"scores need one shape [layers, heads], not {shape}")
    if not all(bool(torch.isfinite(values).all()) for values in scores.values()):
        raise ValueError("a score is no finite number")
    if not all(0 <= layer < shape[0] and 0 <= head < shape[1] for layer, head in chosen):
        raise ValueError("a chosen head is none of the model's")


def _share(value: torch.Tensor, total: float) -> float:
    return float(value) / total if total > 0 else 0.0


def _pairs(values: Any) -> tuple[Head, ...]:
    return tuple((int(layer), int(head)) for layer, head in values)


def _tensor(values: Any) -> torch.Tensor | None:
    return None if values is None else torch.tensor(values)
