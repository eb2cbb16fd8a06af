"""The files of a run: atomic, JSON and safetensors only. Layout: `docs/architecture.md`.

A stage or an evaluation is recorded in `run.json` only when its files are in place, so nothing half-written is ever
taken for whole.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seekr_lite.common.errors import UserError, nearest
from seekr_lite.common.files import (
    json_text,
    new_file,
    new_folder,
    read_json,
    read_tensors,
    user_path,
    write_json,
    write_tensors,
    write_text,
    writing,
)
from seekr_lite.common.packages import versions
from seekr_lite.common.progress import current_listener
from seekr_lite.data.task import Example, Task
from seekr_lite.evaluation.evaluate import Prediction, TaskResult
from seekr_lite.methods.method import TaskState
from seekr_lite.methods.registry import method_class
from seekr_lite.model.snapshots import Snapshot
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.checkpoint_file import CheckpointFile
from seekr_lite.runs.lock import LOCK_FILE
from seekr_lite.runs.record import (
    EvaluationRecord,
    RunRecord,
    StageRecord,
    file_checksum,
    read_record,
    text_checksum,
    write_record,
)
from seekr_lite.runs.rows import (
    DraftFile,
    as_example,
    as_prediction,
    example_values,
    json_lines,
    prediction_values,
    read_rows,
)
from seekr_lite.training.learner import Learned

RUN_FILE = "run.json"
RECIPE_FILE = "recipe.toml"
SCORES_FILE = "scores.json"
SUGGESTED_RUNS = 5  # in the message about a run that is not there
# What `new_file` and `new_folder` leave behind when they are stopped: .NAME.RANDOM
LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}")


class RunFolder:
    """A run's folder and its record. Make one with `create` or `open`."""

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path = path
        self.record = record

    # ------------------------------------------------------------------ making and opening

    @staticmethod
    def is_run(path: Path) -> bool:
        return (path / RUN_FILE).is_file()

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Raises `UserError` where `path` is something else than a run, an empty folder, or nothing; or where a link
        in it leads elsewhere."""

        def ours(name: str) -> bool:  # a lock, or what a stop left behind before there was a run
            return name == LOCK_FILE or LEFTOVER.fullmatch(name) is not None

        try:
            if path.exists() and not path.is_dir():
                raise UserError(f"run.output {path}: this is a file; name a folder")
            if path.is_dir() and not cls.is_run(path) and not all(ours(one.name) for one in path.iterdir()):
                raise UserError(
                    f"run.output {path}: the folder is not empty and is not a run; name another one (--output), or "
                    "empty it"
                )
        except OSError as error:  # a name that is too long, a folder that nobody may look into
            raise UserError(f"run.output {path}: cannot be used: {error.strerror}; name another folder") from None
        refuse_links(path)

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> RunFolder:
        """Raises `Stopped` where it cannot be written."""
        folder = cls(path, RunRecord(recipe.method.name, recipe.run.seed, versions(), recipe.to_toml()))
        folder.write_recipe(recipe)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Raises `UserError` where there is no run, or its record is damaged."""
        path = user_path(path)
        try:
            there = cls.is_run(path)
        except OSError as error:  # a name that is too long, a folder that nobody may look into
            raise UserError(f"{path}: this cannot be opened: {error.strerror or error}") from None
        if not there:
            raise UserError(
                f"{path}: there is no run here (no {RUN_FILE}); name the output folder of a run{_runs_beside(path)}"
            )
        refuse_links(path)
        return cls(path, read_record(path / RUN_FILE))

    def recipe(self) -> Recipe:
        return Recipe.from_text(self.record.recipe, self.path / RUN_FILE)

    def write_recipe(self, recipe: Recipe) -> None:
        """Records the recipe; `recipe.toml` is a copy of it for people."""
        self.record.recipe = recipe.to_toml()
        self.record.files[RECIPE_FILE] = text_checksum(self.record.recipe)
        self.save()
        write_text(self.path / RECIPE_FILE, self.record.recipe)

    def save(self) -> None:
        write_record(self.path / RUN_FILE, self.record)

    def read_again(self) -> None:
        """Takes up what another process has recorded since. Raises `UserError` where the record is damaged."""
        self.record = read_record(self.path / RUN_FILE)

    def clean(self) -> None:
        """Removes what a stop left half-written; only for the process that holds the lock.

        Raises:
            Stopped: the folder cannot be written.
        """
        with writing(self.path):
            for leftover in [path for path in self.path.rglob(".*") if LEFTOVER.fullmatch(path.name)]:
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
            for one in self.record.evaluations:
                self.prediction_draft(one.after, one.task).path.unlink(missing_ok=True)

    # ------------------------------------------------------------------ checksums

    def _note(self, *paths: Path) -> None:
        """Takes the checksums of files just written into the record, which is yet to be saved."""
        for path in paths:
            self.record.files[path.relative_to(self.path).as_posix()] = file_checksum(path)

    def _trusted(self, path: Path) -> Path:
        """The path of a recorded file. Raises `UserError` where it is missing, or not what was written."""
        name = path.relative_to(self.path).as_posix()
        if not path.is_file():
            raise UserError(f"{path}: this file of the run is missing")
        if self.record.files.get(name) != file_checksum(path):
            raise UserError(
                f"{path}: this file of the run is damaged: it is not what was written (`seekr-lite verify`)"
            )
        return path

    def _recorded(self, path: Path) -> bool:
        return path.relative_to(self.path).as_posix() in self.record.files

    # ------------------------------------------------------------------ stages

    def stage_name(self, index: int, tasks: list[Task], joint: bool) -> str:
        return f"{index:02d}-{'joint' if joint else tasks[0].name}"

    def save_stage(
        self,
        name: str,
        tasks: list[Task],
        learned: Learned,
        config: dict[str, Any],
        card: str,
        state_folder: str | None,
    ) -> None:
        """Writes a stage's adapter, memory and method state, then records it. Raises `Stopped` where it cannot."""
        with new_folder(self.path / "adapters" / name) as folder:
            write_tensors(folder / "adapter_model.safetensors", learned.snapshot.weights, {"format": "pt"})
            (folder / "adapter_config.json").write_text(json_text(config), encoding="utf-8")
            (folder / "README.md").write_text(card, encoding="utf-8")
        self._note(*sorted((self.path / "adapters" / name).iterdir()))
        if learned.samples:
            memory = self.path / "memory" / f"{name}.jsonl"
            write_text(memory, json_lines(map(example_values, learned.samples)))
            self._note(memory)
        if learned.state is not None and state_folder:
            target = self.path / state_folder / f"{name}.safetensors"
            with new_file(target) as temporary:
                write_tensors(temporary, learned.state.tensors)
            write_json(target.with_suffix(".json"), learned.state.values)
            self._note(target, target.with_suffix(".json"))
        self.record.stages.append(StageRecord(name, [t.name for t in tasks], learned.steps, learned.seconds))
        self.save()

    def load_stage(self, index: int, state_folder: str | None) -> Learned:
        """Reads back a stage. Raises `UserError`: which file is missing or damaged, what is lost, how to mend it."""
        stage = self.record.stages[index]
        try:
            state = TaskState(*self.load_state(index, state_folder)) if state_folder else None
            return Learned(self.load_snapshot(index), self.load_samples(index), state, stage.steps, stage.seconds)
        except UserError as error:
            later = [task for one in self.record.stages[index + 1 :] for task in one.tasks]
            raise UserError(
                f"{error}\nWithout it the run cannot go on: it is a part of what was learned of "
                f"{', '.join(stage.tasks)}"
                + (f", on which {', '.join(later)} may rest" if later else "")
                + ". Everything else is kept. Put the file back from a copy and run the same command, or learn anew "
                "with --fresh (which moves this folder aside)"
            ) from None

    def load_samples(self, index: int) -> tuple[Example, ...]:
        """The replay samples of a stage; empty where its method keeps none."""
        path = self.memory_path(index)
        return () if path is None else tuple(read_rows(path, as_example))

    def load_state(self, index: int, state_folder: str) -> tuple[dict[str, Any], Any]:
        """What the method kept of a stage: tensors, and plain values."""
        path = self.path / state_folder / f"{self.record.stages[index].name}.safetensors"
        return read_tensors(self._trusted(path)), read_json(self._trusted(path.with_suffix(".json")))

    def load_state_values(self, index: int, state_folder: str) -> Any | None:
        """The plain values of `load_state` alone; None where the record names no such file."""
        path = self.path / state_folder / f"{self.record.stages[index].name}.json"
        return read_json(self._trusted(path)) if self._recorded(path) else None

    def memory_path(self, index: int) -> Path | None:
        """The file of a stage's replay samples; None where its method keeps none.

        Raises:
            UserError: the file is missing, or not what was written.
        """
        path = self.path / "memory" / f"{self.record.stages[index].name}.jsonl"
        return self._trusted(path) if self._recorded(path) else None

    def adapter_folder(self, index: int) -> Path:
        return self.path / "adapters" / self.record.stages[index].name

    def trusted_adapter_folder(self, index: int) -> Path:
        """The folder of an adapter. Raises `UserError` where a file that PEFT reads is not what was written."""
        folder = self.adapter_folder(index)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            self._trusted(folder / name)
        return folder

    def stage_after(self, task: str | None) -> int:
        """The index of the stage that learned a task; by default the last.

        Raises:
            UserError: the run has learned no such task, or none at all.
        """
        if not self.record.stages:
            raise UserError(f"{self.path}: this run has learned no task yet")
        if task is None:
            return len(self.record.stages) - 1
        by_task = {name: index for index, stage in enumerate(self.record.stages) for name in stage.tasks}
        if task not in by_task:
            raise UserError(f'after "{task}": this run has learned {", ".join(by_task)}{nearest(task, by_task)}')
        return by_task[task]

    def load_snapshot(self, index: int) -> Snapshot:
        folder = self.trusted_adapter_folder(index)
        config = read_json(folder / "adapter_config.json")
        weights = read_tensors(folder / "adapter_model.safetensors")
        try:
            if "num_virtual_tokens" in config:  # a soft prompt
                return Snapshot(weights, int(config["num_virtual_tokens"]), 1.0)
            return Snapshot(weights, int(config["r"]), float(config["lora_alpha"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{folder / 'adapter_config.json'}: damaged: {error!r}") from None

    def checkpoints(self, recipe: Recipe) -> CheckpointFile:
        """The state inside a task."""
        path = self.path / "checkpoint.safetensors"
        return CheckpointFile(path, recipe.run.checkpoint_steps, recipe.run.checkpoint_minutes)

    # ------------------------------------------------------------------ evaluations

    def evaluation(self, after: int | None, task: str) -> EvaluationRecord | None:
        return next((one for one in self.record.evaluations if (one.after, one.task) == (after, task)), None)

    def save_evaluation(self, after: int | None, task: str, result: TaskResult) -> None:
        """Writes the predictions, then records the score."""
        write_text(self.predictions_path(after, task), json_lines(map(prediction_values, result.predictions)))
        self._note(self.predictions_path(after, task))
        self.record.evaluations.append(EvaluationRecord(after, task, result.score, result.nll))
        self.save()
        draft = self.prediction_draft(after, task).path
        with writing(draft):
            draft.unlink(missing_ok=True)

    def load_predictions(self, after: int | None, task: str) -> list[Prediction]:
        """The predictions of a finished evaluation. Raises `UserError` where they are missing or damaged."""
        return list(read_rows(self._trusted(self.predictions_path(after, task)), as_prediction))

    def forget_damaged_evaluations(self) -> list[tuple[int | None, str]]:
        """Takes evaluations whose predictions are damaged or missing out of the record, and their files away; says so,
        and returns them: (after, task).

        Raises:
            Stopped: the folder cannot be written.
        """
        damaged: list[tuple[EvaluationRecord, Path]] = []
        for one in self.record.evaluations:
            path = self.predictions_path(one.after, one.task)
            try:
                self._trusted(path)
            except UserError:
                damaged.append((one, path))
        for one, path in damaged:
            self.record.evaluations.remove(one)
            self.record.files.pop(path.relative_to(self.path).as_posix(), None)
        if damaged:
            self.save()
        for _, path in damaged:
            with writing(path):
                path.unlink(missing_ok=True)
            current_listener().say(f"{path}: damaged or missing; this evaluation is made again")
        return [(one.after, one.task) for one, _ in damaged]

    # ------------------------------------------------------------------ scores

    def save_scores(self, values: dict[str, Any]) -> None:
        write_json(self.path / SCORES_FILE, values)
        self._note(self.path / SCORES_FILE)
        self.save()

    @property
    def heads_folder(self) -> str | None:
        """Where it has head scores, or should have them; None for a method that scores none."""
        method = method_class(self.record.method)
        return method.state_folder if method.looks_into_attention else None

    @property
    def has_scores(self) -> bool:
        """Whether the run has once come to its end. (Tasks may have been appended since.)"""
        return self._recorded(self.path / SCORES_FILE)

    def load_scores(self) -> Any:
        """Raises `UserError` where the run has not ended, or the file is damaged."""
        path = self.path / SCORES_FILE
        if not self._recorded(path):
            raise UserError(
                f"{self.path}: this run has no scores yet; finish it with `seekr-lite run` and the same recipe"
            )
        return read_json(self._trusted(path))

    def predictions_path(self, after: int | None, task: str) -> Path:
        return self.path / "predictions" / ("base" if after is None else f"{after:02d}") / f"{task}.jsonl"

    def prediction_draft(self, after: int | None, task: str) -> DraftFile:
        return DraftFile(self.predictions_path(after, task).with_suffix(".draft.jsonl"))

    # ------------------------------------------------------------------ tasks handed over from Python

    def task_path(self, name: str) -> Path:
        return self.path / "tasks" / f"{name}.json"

    def save_task(self, task: Task) -> None:
        write_json(self.task_path(task.name), asdict(task))
        self._note(self.task_path(task.name))
        self.save()

    def load_task(self, name: str) -> Task | None:
        if not self._recorded(self.task_path(name)):
            return None
        values = read_json(self._trusted(self.task_path(name)))
        try:
            for rows in ("train", "test", "validation"):
                values[rows] = tuple(as_example(row) for row in values[rows])
            return Task(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.task_path(name)}: damaged: {error!r}") from None


def _runs_beside(path: Path) -> str:
    """Runs that lie where one was looked for, in words; nothing where there is none, or nobody may look."""
    try:
        found = sorted(str(one.parent) for one in path.parent.glob(f"*/{RUN_FILE}"))
    except (OSError, ValueError):
        found = []
    more = ", ..." if len(found) > SUGGESTED_RUNS else ""
    return f"; there are {', '.join(found[:SUGGESTED_RUNS])}{more}" if found else ""


def refuse_links(folder: Path) -> None:
    """Raises `UserError` where something inside a run folder is a link: what a run writes would land elsewhere.

    The folder itself may be one: whoever made the link chose where the run lies.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                raise UserError(
                    f"{path}: this is a link, and a run folder holds none, since writing would follow it; "
                    "put what it leads to in its place"
                )
