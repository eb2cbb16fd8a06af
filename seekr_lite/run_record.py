"""`run.json`: what of a run is finished, and the checksum of every file that it rests on; its own checksum, too."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seekr_lite.errors import UserError
from seekr_lite.files import write_text

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
    """A finished evaluation: of `task`, after the stage `after` (None: the bare base)."""

    after: int | None
    task: str
    score: float
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
    write_text(path, _text(values | {CHECKSUM: _checksum(values)}))


def read_record(path: Path) -> RunRecord:
    """Raises `UserError` where the record is damaged, or of another version."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise UserError(f"{path}: format {values['format']}, and this version reads {FORMAT}")
        checksum = values.pop(CHECKSUM)
        # The text itself is compared, too: what JSON does not tell apart is a change nevertheless.
        if checksum != _checksum(values) or text != _text(values | {CHECKSUM: checksum}):
            raise ValueError("its content does not match its checksum")
        values["stages"] = [StageRecord(**stage) for stage in values["stages"]]
        values["evaluations"] = [EvaluationRecord(**one) for one in values["evaluations"]]
        return RunRecord(**values)
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise UserError(f"{path}: the record of this run is damaged: {error}") from None


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


def _checksum(values: dict[str, Any]) -> str:
    return text_checksum(_text(values))


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
