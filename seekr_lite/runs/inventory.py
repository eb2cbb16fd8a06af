"""What lies in a run folder: what the past costs on disk, and whether every file is what was written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seekr_lite.common.errors import UserError
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.general_texts import kept_texts
from seekr_lite.runs.record import file_checksum


@dataclass(frozen=True)
class TaskStore:
    """Of one task (of all, for `joint`): its samples, their bytes as they lie on disk, and its adapter's bytes."""

    task: str
    samples: int
    text_bytes: int
    mean_sample_bytes: float
    largest_sample_bytes: int
    adapter_bytes: int


def replay_store(folder: RunFolder) -> list[TaskStore]:
    """One entry per finished stage. A sample's bytes are those of its line in the memory file.

    Raises:
        UserError: a file that is counted is missing, or not what was written.
    """
    stores = []
    for index, stage in enumerate(folder.record.stages):
        memory, adapter = folder.memory_path(index), folder.trusted_adapter_folder(index)
        sizes = [] if memory is None else [len(line) for line in memory.read_bytes().splitlines(keepends=True)]
        stores.append(
            TaskStore(
                task=", ".join(stage.tasks),
                samples=len(sizes),
                text_bytes=sum(sizes),
                mean_sample_bytes=sum(sizes) / len(sizes) if sizes else 0.0,
                largest_sample_bytes=max(sizes, default=0),
                adapter_bytes=(adapter / "adapter_model.safetensors").stat().st_size,
            )
        )
    return stores


@dataclass(frozen=True)
class FileState:
    """A file of a run, by its path inside the folder, and what became of it."""

    path: str
    state: Literal["whole", "changed", "missing"]


def verify_files(folder: RunFolder) -> list[FileState]:
    """The state of every recorded file, of general texts, and of the checkpoint where there is one."""
    found: list[FileState] = []
    for name, checksum in sorted(folder.record.files.items()):
        path = folder.path / name
        if not path.is_file():
            found.append(FileState(name, "missing"))
        else:
            found.append(FileState(name, "whole" if file_checksum(path) == checksum else "changed"))
    for path, kept in kept_texts(folder):
        name = path.relative_to(folder.path).as_posix()
        found.append(FileState(name, "changed" if isinstance(kept, UserError) else "whole"))
    checkpoint = folder.checkpoints(folder.recipe())
    if checkpoint.path.is_file():
        try:
            checkpoint.read()
            found.append(FileState(checkpoint.path.name, "whole"))
        except UserError:
            found.append(FileState(checkpoint.path.name, "changed"))
    return found
