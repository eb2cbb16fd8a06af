"""What a run's folder tells a report: what is measured, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from seekr_lite.common.errors import UserError
from seekr_lite.evaluation.scoreboard import Scoreboard, planned_evaluations, scoreboard
from seekr_lite.methods.registry import method_class
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.folder import SCORES_FILE, RunFolder
from seekr_lite.runs.general_texts import kept_texts, with_texts
from seekr_lite.runs.inventory import TaskStore, replay_store
from seekr_lite.tools.heads.heads import Heads
from seekr_lite.tools.report.step_curves import PhaseTotal, StepCurves, read_curves, read_phases

NAMED = 6  # so many missing tests are named


@dataclass(frozen=True)
class RunFacts:
    """A run, as it was when its record was read, once.

    recorded: every evaluation that was made, also of rounds that were last ones before tasks were appended.
    board: what `scores.json` says; of an unfinished run, `recorded`.
    trouble: files that should be there and cannot be read.
    """

    folder: RunFolder
    recipe: Recipe
    recorded: Scoreboard
    board: Scoreboard
    finished: bool
    trouble: tuple[str, ...]

    @classmethod
    def of(cls, folder: RunFolder) -> RunFacts:
        recipe, trouble = folder.recipe(), []
        scores = None
        if SCORES_FILE in folder.record.files:
            try:
                scores = Scoreboard.from_json(folder.load_scores())
            except UserError as error:
                trouble.append(str(error))
        tasks, record = recipe.data.tasks, folder.record
        metrics = scores.metrics if scores else {}
        results = {
            (one.after, tasks.index(one.task)): (one.score, one.nll) for one in record.evaluations if one.task in tasks
        }
        recorded = scoreboard({task: metrics.get(task) for task in tasks}, results, record.method, record.seed)
        finished = scores is not None and scores.tasks == tasks
        board = with_texts(scores if scores and finished else recorded, folder)
        trouble += [str(kept) for _, kept in kept_texts(folder) if isinstance(kept, UserError)]
        return cls(folder, recipe, recorded, board, finished, tuple(trouble))

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.recipe.data.tasks

    @property
    def learned(self) -> list[str]:
        """The tasks learned so far."""
        return [task for stage in self.folder.record.stages for task in stage.tasks]

    @property
    def method(self) -> str:
        return self.folder.record.method

    @property
    def joint(self) -> bool:
        """Whether all tasks are learned at once."""
        return method_class(self.method).joint

    @cached_property
    def curves(self) -> StepCurves:
        return read_curves(self.folder.path / "log.jsonl")

    @cached_property
    def phases(self) -> list[PhaseTotal]:
        return read_phases(self.folder.path / "log.jsonl")

    @cached_property
    def kept(self) -> list[TaskStore] | UserError:
        """What is kept on disk, by task; or why that cannot be read."""
        try:
            return replay_store(self.folder)
        except UserError as error:
            return error

    @cached_property
    def heads(self) -> Heads | UserError | None:
        """The head scores, or why they cannot be read; None where there are none."""
        try:
            return Heads.of_run(self.folder) if self.learned and self.folder.heads_folder else None
        except UserError as error:
            return error

    @cached_property
    def round_names(self) -> dict[int | None, str]:
        """What a round is called: after which task the tests were made."""
        names = ("after all tasks" if self.joint else f"after {task}" for task in self.tasks)
        return {None: "bare base", **dict(enumerate(names))}

    def missing(self) -> list[str]:
        """What an unfinished run has not done yet, in words."""
        learned = set(self.learned)
        open_tasks = [task for task in self.tasks if task not in learned]
        lines = []
        if open_tasks:
            lines.append(f"not learned yet: {', '.join(open_tasks)}")
            stage = len(self.folder.record.stages)
            if steps := self.curves.lengths.get(stage):
                lines.append(f"{'all tasks' if self.joint else self.tasks[stage]}: in work, {steps} steps are logged")
        planned = planned_evaluations(len(self.tasks), self.recipe.evaluate.rounds, self.joint)
        untested = [
            f"{self.tasks[task]} ({self.round_names[after]})"
            for after, task in planned
            if self.folder.evaluation(after, self.tasks[task]) is None
        ]
        if untested:
            more = f", and {len(untested) - NAMED} more" if len(untested) > NAMED else ""
            lines.append(f"not tested yet: {', '.join(untested[:NAMED])}{more}")
        if not lines and not self.finished:
            lines.append("the scores are not put together yet")
        return lines
