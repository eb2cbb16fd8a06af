"""`run.json`: what of a run is finished, and the checksum of every file that it rests on; its own checksum, too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter

from seekr_lite.common.errors import UserError, brief, check_task_name, shown
from seekr_lite.common.files import json_text, read_limited, write_text
from seekr_lite.methods.registry import method_class
from seekr_lite.recipe.method_names import method_names

FORMAT = 2
CHECKSUM = "checksum"


@dataclass
class StageRecord:
    """A finished stage: its adapter's folder name, its tasks, and what it took."""

    name: str
    tasks: list[str]
    steps: int
    seconds: float


@dataclass
class EvaluationRecord:
    """A finished evaluation: of `task`, after the stage `after` (None: the bare base).

    score, nll: None where the task has no test rows, no held-out rows.
    """

    after: int | None
    task: str
    score: float | None
    nll: float | None


@dataclass
class RunRecord:
    """recipe: as TOML, with every key. files: path inside the run folder -> SHA-256."""

    method: str
    seed: int
    versions: dict[str, str]
    recipe: str
    stages: list[StageRecord] = field(default_factory=list)
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


def write_record(path: Path, record: RunRecord) -> None:
    """Raises `Stopped` where it cannot be written; the record before is then kept."""
    values = asdict(record)
    values["files"] = dict(sorted(record.files.items()))
    write_text(path, json_text(values | {CHECKSUM: text_checksum(json_text(values))}))


def read_record(path: Path) -> RunRecord:
    """Raises `UserError` where the record is damaged, of another version, or names files outside of its run."""
    try:
        text = read_limited(path)
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise UserError(f"{path}: format {shown(values['format'])}, and this version reads {FORMAT}")
        checksum = values.pop(CHECKSUM)
        # The text itself is compared, too: what JSON does not tell apart is a change nevertheless.
        if checksum != text_checksum(json_text(values)) or text != json_text(values | {CHECKSUM: checksum}):
            raise ValueError("its content does not match its checksum")
        # A checksum shows damage, not who wrote the file: the record may come from anywhere, and names files.
        record = TypeAdapter(RunRecord).validate_json(json_text(values), strict=True)
        _check_names(record)
        if record.method not in method_names():
            raise UserError(
                f"{path}: a run of the method {shown(record.method)}, which is not known here; import what registers it"
            )
        return record
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise UserError(f"{path}: the record of this run is damaged: {error}") from None


def _check_names(record: RunRecord) -> None:
    """Raises `ValueError` where a name could lead out of the run folder, or means nothing."""
    for name in record.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or not name.isprintable() or "\\" in name:
            raise ValueError(f"the file {brief(name)} is not inside the run folder")
    for index, stage in enumerate(record.stages):
        if not stage.tasks or stage.name not in (f"{index:02d}-{stage.tasks[0]}", f"{index:02d}-joint"):
            raise ValueError(f"stage {index} cannot be called {shown(stage.name)}")
    tasks = [task for stage in record.stages for task in stage.tasks] + [one.task for one in record.evaluations]
    try:
        for task in tasks:
            check_task_name(task)
    except UserError as error:
        raise ValueError(str(error)) from None


def learned_tasks(method: str, stages: Sequence[Sequence[str]]) -> list[str]:
    """The tasks that the model after the last of these stages has learned; its own alone where each begins afresh."""
    return [task for tasks in (stages if method_class(method).starts_from_previous else stages[-1:]) for task in tasks]


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises `UserError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: this file of the run cannot be read: {error.strerror or error}") from None


def text_checksum(text: str) -> str:
    """SHA-256 of a text, as a file of it would have."""
    return hashlib.sha256(text.encode()).hexdigest()
