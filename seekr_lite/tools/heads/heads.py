"""What a run knows of its model's attention heads: their scores by task, which were chosen, how the choice moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seekr_lite.common.errors import UserError, nearest
from seekr_lite.common.files import user_file
from seekr_lite.common.html_page import render
from seekr_lite.common.packages import load_extra
from seekr_lite.runs.folder import RunFolder
from seekr_lite.tools.heads.heatmap import heatmap_figure, heatmap_svg
from seekr_lite.tools.heads.scores import (
    COLUMNS,
    MEANINGS,
    ChoiceChange,
    TaskHeads,
    TopHead,
    check_scores,
    jaccard,
    pairs,
)


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
        heads_folder = folder.heads_folder
        if heads_folder is None:
            raise UserError(
                f'{folder.path}: this run holds no head scores: its method is "{folder.record.method}", which scores '
                "none (SEEKR does); "
                "`seekr-lite heads score RECIPE --task TASK --run RUN` scores them now"
            )
        tasks = []
        for index, stage in enumerate(stages):
            tensors, values = folder.load_state(index, heads_folder)
            try:
                scores = {name: tensors[name] for name in COLUMNS}
                chosen = pairs(values["heads"])
                check_scores(scores, chosen)
                tasks.append(TaskHeads(stage.tasks[0], **scores, chosen=chosen))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UserError(f"{folder.path / heads_folder / stage.name}.*: damaged: {error!r}") from None
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

    def change_rows(self) -> list[tuple[str, str]]:
        return [(f"{one.before} → {one.after}", f"{one.jaccard:.2f}") for one in self.change()]

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
        return heatmap_figure(self.of(after), measure)

    def save_png(self, path: str | Path, measure: str | None = None, after: str | None = None) -> None:
        """Writes `plot(...)` as a PNG. Raises `UserError` where the file cannot be written."""
        figure = self.plot(measure, after)
        with user_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)

    def save_html(self, path: str | Path) -> None:
        """Writes one HTML file that needs nothing else. Raises `UserError` where it cannot be written."""
        with user_file(path) as temporary:
            temporary.write_text(self.to_html(), encoding="utf-8")

    def to_html(self) -> str:
        """The whole document: every task with every measure."""
        return render("tools/heads/heads_page.html.j2", **self.panels(), sections=())

    def panels(self, slider: bool = False, hover: bool = True) -> dict[str, Any]:
        """What `heads_panels.html.j2` shows: a panel for each task. hover: cells show their value to a pointer."""
        shown = {"meanings": MEANINGS, "heatmap": heatmap_svg, "slider": slider, "hover": hover}
        return {"heads": self, "panels": self.tasks, **shown}

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return {
            "tasks": [task.to_json() for task in self.tasks],
            "change": [vars(change) for change in self.change()],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Heads:
        """The inverse of `to_json`."""
        return cls(tuple(map(TaskHeads.from_json, values["tasks"])))

    def _repr_html_(self) -> str:
        last = self.panels() | {"panels": self.tasks[-1:]}
        return render("tools/heads/heads_notebook.html.j2", **last)

    def __repr__(self) -> str:
        return f"Heads({', '.join(task.task for task in self.tasks)})"
