"""Whether the files of a run are what they were when they were written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from seekr_lite.common.errors import UserError
from seekr_lite.runs.general_store import kept_texts
from seekr_lite.runs.record import file_checksum

if TYPE_CHECKING:
    from seekr_lite.runs.folder import RunFolder


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
