"""The face of the package: `Run`, `run`, `open_run`, `compare` and `score_task_heads`.

What loads PEFT and bitsandbytes, which takes seconds, is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr_lite.common.console import Console
from seekr_lite.common.errors import UserError
from seekr_lite.common.files import user_file, user_path
from seekr_lite.common.progress import Listener, current_listener
from seekr_lite.data.task import Task
from seekr_lite.evaluation.scoreboard import Scoreboard
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs import runner
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.general_texts import with_texts
from seekr_lite.runs.inventory import TaskStore, replay_store
from seekr_lite.tools.compare import run_grid as grid
from seekr_lite.tools.compare.comparison import Comparison
from seekr_lite.tools.evaluate import Evaluation, evaluate_run
from seekr_lite.tools.general_text import TextLikelihood, general_likelihood
from seekr_lite.tools.heads.heads import Heads
from seekr_lite.tools.lm_eval_harness import HarnessScore, harness_scores
from seekr_lite.tools.models import LoadedModel
from seekr_lite.tools.report.run_html import run_html

if TYPE_CHECKING:
    from seekr_lite.tools.export import Export
    from seekr_lite.tools.heads.graft import GraftResult
    from seekr_lite.tools.heads.study import HeadStudy
    from seekr_lite.tools.push import Push


class Run:
    """A run on disk, as it is now: its scores, its recipe, its models, and the next task."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def recipe(self) -> Recipe:
        return self.folder.recipe()

    @property
    def tasks(self) -> list[str]:
        """The tasks learned so far."""
        return [task for stage in self.folder.record.stages for task in stage.tasks]

    @property
    def scores(self) -> Scoreboard:
        """The scoreboard, and the general texts measured since. Raises `UserError` where the run has not ended."""
        folder = self.folder
        return with_texts(Scoreboard.from_json(folder.load_scores()), folder)

    @property
    def folder(self) -> RunFolder:
        """The files of the run; read anew each time, since the run may have gone on, here or elsewhere."""
        return RunFolder.open(self.path)

    @property
    def heads(self) -> Heads:
        """What the run knows of its attention heads. Raises `UserError` where its method scored none."""
        return Heads.of_run(self.folder)

    @property
    def replay_store(self) -> list[TaskStore]:
        """What the past costs on disk, by task: bytes of replay text and of adapters, apart."""
        return replay_store(self.folder)

    def graft_heads(self, task: str | None = None, listener: Listener | None = None) -> list[GraftResult]:
        """How much of an old task's loss comes back with its old attention maps; by default of every old task."""
        from seekr_lite.tools.heads.graft import graft_heads

        with current_listener.set_to(listener):
            return graft_heads(self.folder, task)

    def evaluate(
        self,
        after: str | Sequence[str] = (),
        tasks: Sequence[str] = (),
        data: str | None = None,
        overrides: Sequence[str] = (),
        listener: Listener | None = None,
    ) -> list[Evaluation]:
        """Tests models of the run on its tasks or another data set; writes nothing. See `seekr_lite.tools.evaluate`."""
        with current_listener.set_to(listener):
            return evaluate_run(self.folder, after, tasks, data, overrides)

    def general_likelihood(
        self, file: str | Path, after: Sequence[str] = (), listener: Listener | None = None
    ) -> list[TextLikelihood]:
        """The likelihood of a general text before and after each task; see `seekr_lite.tools.general_text`."""
        with current_listener.set_to(listener):
            return general_likelihood(self.folder, file, after)

    def harness_scores(
        self,
        tasks: Sequence[str],
        after: Sequence[str] = (),
        limit: int | None = None,
        listener: Listener | None = None,
    ) -> list[HarnessScore]:
        """Tasks of lm-evaluation-harness on models of the run; see `seekr_lite.tools.lm_eval_harness`."""
        with current_listener.set_to(listener):
            return harness_scores(self.folder, tasks, after, limit)

    def export(
        self, to: str | Path, after: str | None = None, merge: str = "none", listener: Listener | None = None
    ) -> Export:
        """Writes the model after a task to a folder of its own, for other programs; see `seekr_lite.tools.export`."""
        from seekr_lite.tools.export import export

        with current_listener.set_to(listener):
            return export(self.folder, to, after, merge)

    def push(
        self,
        to: str,
        after: str | None = None,
        private: bool = False,
        base_model: str | None = None,
        send: bool = False,
    ) -> Push:
        """What of an adapter would go to the hub; with `send` it goes. See `seekr_lite.tools.push.push`."""
        from seekr_lite.tools.push import push

        return push(self.folder, to, after, private, base_model, send)

    def save_report(self, path: str | Path | None = None) -> Path:
        """Writes the run as one HTML file that needs nothing else, by default `report.html` in its folder; returns
        its path. Raises `UserError` where it cannot be written."""
        target = user_path(path) if path is not None else self.path / "report.html"
        page = run_html(self.folder)
        with user_file(target) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return target

    def load_model(self, after: str | None = None) -> LoadedModel:
        """The base with the adapter after task `after` (by default the last), ready to generate."""
        return LoadedModel.of_run(self.folder, after)

    def learn(self, task: Task, epochs: int | None = None, listener: Listener | None = None) -> Run:
        """Learns one more task, handed over from Python, and evaluates the run again; returns this run.

        Args:
            task: its rows are kept in the run folder, so that the run can be taken up without them.
            epochs: for this task; by default the recipe's (the last number, where it is a list).
        """
        recipe = self.recipe
        if task.name in self.tasks:
            raise UserError(f"task {task.name}: this run has learned it already; give the new task another name")
        if task.name in recipe.data.tasks:  # it was stopped inside
            return run(recipe, output=self.path, listener=listener, tasks=[task])
        changes: dict[str, Any] = {"data": {"tasks": (*recipe.data.tasks, task.name)}}
        last = recipe.epochs_of(len(recipe.data.tasks))
        if isinstance(recipe.train.epochs, tuple):
            changes["train"] = {"epochs": (*recipe.train.epochs, epochs or last)}
        elif epochs not in (None, recipe.train.epochs):
            old = (recipe.train.epochs,) * len(recipe.data.tasks)
            changes["train"] = {"epochs": (*old, epochs)}
        return run(recipe.with_(**changes), output=self.path, listener=listener, tasks=[task])

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, tasks={self.tasks})"

    def _repr_html_(self) -> str:
        return self.scores._repr_html_()


def run(
    recipe: Recipe | str | Path,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
    tasks: Sequence[Task] = (),
    fresh: bool = False,
) -> Run:
    """Runs a recipe to its end: learns what the folder has not learned, tests what it has not tested.

    Args:
        recipe: a recipe, or the path of a recipe file.
        output: the run folder; by default the recipe's `run.output`.
        overrides: `section.key=value`, for a recipe file.
        listener: called with progress; by default a progress display in a terminal or notebook.
        tasks: tasks handed over from Python; the recipe's `data.tasks` names them.
        fresh: start anew; a run that is there is moved aside, not deleted.

    Under `accelerate launch` or `torchrun` every process calls this; they share the work, and the main one writes.

    Raises:
        UserError: anything that is wrong with the recipe, the data, the base or the folder, before a folder is made.
        Stopped: a file cannot be written, too many losses are not finite, or another process of the run has ended;
            once mended, it goes on from there.
        Interrupted: SIGTERM or SIGINT came; the same call goes on from there.
    """
    with current_listener.set_to(listener or Console()):
        return Run(runner.run_recipe(recipe, output, overrides, tasks, fresh).path)


def open_run(path: str | Path) -> Run:
    """Opens a run folder. Raises `UserError` where there is none."""
    return Run(RunFolder.open(path).path)


def compare(
    *what: Run | Recipe | str | Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
) -> Comparison:
    """Compares runs; or makes the runs of several methods and seeds from one recipe, and compares these.

    Args and errors are those of `seekr_lite.tools.compare.run_grid.compare`; a run may be given as a `Run`, too.
    """
    paths = [one.path if isinstance(one, Run) else one for one in what]
    with current_listener.set_to(listener or Console()):
        return grid.compare(*paths, methods=methods, seeds=seeds, output=output, overrides=overrides)


def score_task_heads(
    recipe: Recipe,
    task: str,
    rows: int = 8,
    run: Run | None = None,
    after: str | None = None,
    listener: Listener | None = None,
) -> HeadStudy:
    """Scores every head on the first training rows of a task; see `seekr_lite.tools.heads.study`.

    rows: 8 are enough: their ranks correlate 0.999 with those of 48.
    """
    from seekr_lite.tools.heads.study import score_task_heads as score

    folder = None if run is None else run.folder
    with current_listener.set_to(listener):
        return score(recipe, task, rows, folder, after)
