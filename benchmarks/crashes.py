"""Every state in which a crash can leave the folder of a run, by enumeration of its file operations.

A run is watched while it works: each opening for writing, write, truncation, sync, rename, removal, making of a folder
and change of mode below its folder goes through here. After each the folder is copied: so it would look had the power
gone then. Of a write there is a copy with half of its bytes, too; and after each rename one in which every file has
only those bytes that were synced. States that are equal are kept once.

Nothing is missed: before each operation the folder must look as after the one before it, else something wrote past us.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.torture_case import CHECKPOINT_STEPS, Outcome, Whole, artefacts, recipe_for, steps_done_twice
from seekr_lite.common.progress import Listener
from seekr_lite.runs.lock import LOCK_FILE

OPERATIONS = (
    "fsync",
    "write",
    "replace",
    "rename",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
    "chmod",
    "truncate",
    "ftruncate",
)
RENAMES = ("replace", "rename")
CHANGES_BY_OPENING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
QUIET = Listener()

real_open, real_os_open = io.open, os.open


@dataclass(frozen=True)
class CrashState:
    """What a crash leaves. what: after or within which operation. content: path -> digest of a file, None: a folder."""

    what: str
    content: frozenset[tuple[str, str | None]]


class Watch:
    """Watches a run's folder; `states` are those that a crash can leave, in the order of the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states: list[CrashState] = []
        self.operations = 0
        self._blobs: dict[str, bytes] = {}
        self._seen: set[frozenset[tuple[str, str | None]]] = set()
        self._synced: dict[int, int] = {}  # inode -> bytes that are safe, of files with bytes that are not
        self._look: Any = None
        self._take("before the first operation")

    def lay_out(self, state: CrashState, folder: Path) -> None:
        """Makes `folder` what the watched one was."""
        folder.mkdir(parents=True)
        for name, digest in sorted(state.content):
            if digest is None:
                (folder / name).mkdir()
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(self._blobs[digest])

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the block nothing changes the folder without `states` growing."""
        import safetensors.torch

        self._take("at the start")
        patches = [patch.object(os, name, self._around(name, getattr(os, name))) for name in OPERATIONS]
        patches += [
            patch.object(os, "open", self._os_open),
            patch.object(io, "open", self._open),
            patch.object(builtins, "open", self._open),
            patch.object(safetensors.torch, "save_file", self._saving(safetensors.torch.save_file)),
        ]
        for one in patches:
            one.start()
        try:
            yield
            self._check_nothing_went_past()
        finally:
            for one in patches:
                one.stop()

    # ------------------------------------------------------------------ the operations

    def _around(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def watched(target: Any, *arguments: Any, **options: Any) -> Any:
            path = self._ours(target, options.get("dir_fd"))
            if path is None:
                return operation(target, *arguments, **options)
            self._check_nothing_went_past()
            inode = os.fstat(target).st_ino if name == "fsync" else None
            result = operation(target, *arguments, **options)
            if inode is not None:
                self._synced.pop(inode, None)
            what = self._count(name, path)
            if name in RENAMES and self._synced:
                self._take(f"{what}, and what was not synced is lost", only_synced=True)
            return result

        return watched

    def _os_open(self, target: Any, flags: int, *arguments: Any, **options: Any) -> int:
        path = self._ours(target, options.get("dir_fd"))
        if path is None or not flags & CHANGES_BY_OPENING:
            return real_os_open(target, flags, *arguments, **options)
        self._check_nothing_went_past()
        handle = real_os_open(target, flags, *arguments, **options)
        self._count("open", path)
        return handle

    def _open(self, target: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        path = self._ours(target)
        if path is None or not set(mode) & set("wax+"):
            return real_open(target, mode, *arguments, **options)
        self._check_nothing_went_past()
        file = real_open(target, mode, *arguments, **options)
        self._count("open", path)
        return WatchedFile(self, path, file)

    def _saving(self, save_file: Callable[..., None]) -> Callable[..., None]:
        """It writes past Python, so the half-written file is made of the whole one."""

        def watched(tensors: Any, filename: Any, *arguments: Any, **options: Any) -> None:
            path = self._ours(filename)
            if path is None:
                return save_file(tensors, filename, *arguments, **options)
            self._check_nothing_went_past()
            save_file(tensors, filename, *arguments, **options)
            content = path.read_bytes()
            for part, kept in (("half of ", len(content) // 2), ("", len(content))):
                with real_open(path, "wb") as file:
                    file.write(content[:kept])
                self._synced[path.stat().st_ino] = 0
                self._count(f"{part}save_file", path)

        return watched

    def written(self, path: Path, file: Any, data: Any) -> None:
        """Writes in two halves, each of them at once."""
        half = len(data) // 2
        for part, piece in (("half of ", data[:half]), ("", data[half:])):
            self._check_nothing_went_past()
            status = os.fstat(file.fileno())
            self._synced.setdefault(status.st_ino, status.st_size)
            file.write(piece)
            file.flush()
            self._count(f"{part}write", path)

    def truncated(self, path: Path, file: Any, size: int | None) -> None:
        self._check_nothing_went_past()
        file.truncate(size)
        file.flush()
        self._count("truncate", path)

    # ------------------------------------------------------------------ the states

    def _ours(self, target: Any, folder_handle: int | None = None) -> Path | None:
        """The path below the folder (or its own) that an operation changes; None: somebody else's."""
        if isinstance(target, int):
            found = Path(os.readlink(f"/proc/self/fd/{target}"))
        elif folder_handle is not None:
            found = Path(os.readlink(f"/proc/self/fd/{folder_handle}")) / os.fsdecode(target)
        else:
            found = Path(os.path.abspath(os.fsdecode(target)))
        return found if found == self.folder or self.folder in found.parents else None

    def _count(self, name: str, path: Path) -> str:
        self.operations += 1
        what = f"after {name} {path.relative_to(self.folder)} (operation {self.operations})"
        self._take(what)
        return what

    def _take(self, what: str, only_synced: bool = False) -> None:
        content: dict[str, str | None] = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_dir():
                content[name] = None
                continue
            with real_open(path, "rb") as file:
                data = file.read()
            if only_synced:
                data = data[: self._synced.get(path.stat().st_ino, len(data))]
            if name == LOCK_FILE:
                data = b""  # names the process; the system, not the file, says whether it is held
            digest = sha256(data).hexdigest()
            self._blobs[digest] = data
            content[name] = digest
        if not only_synced:
            self._look = self._looks()
        key = frozenset(content.items())
        if key not in self._seen:
            self._seen.add(key)
            self.states.append(CrashState(what, key))

    def _looks(self) -> list[tuple[Any, ...]]:
        found = [(str(path), path.is_dir() or path.stat()) for path in sorted(self.folder.rglob("*"))]
        return [
            (name, look if isinstance(look, bool) else (look.st_ino, look.st_size, look.st_mtime_ns))
            for name, look in found
        ]

    def _check_nothing_went_past(self) -> None:
        if self._look != self._looks():
            raise AssertionError(f"something wrote past the watch after operation {self.operations}")


class WatchedFile:
    """A file that is open for writing, of which every change is an operation."""

    def __init__(self, watch: Watch, path: Path, file: Any) -> None:
        self._watch = watch
        self._path = path
        self._file = file

    def write(self, data: Any) -> int:
        self._watch.written(self._path, self._file, data)
        return len(data)

    def truncate(self, size: int | None = None) -> None:
        self._watch.truncated(self._path, self._file, size)

    def __enter__(self) -> WatchedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


# ---------------------------------------------------------------------- the torture


def crash_everywhere(folder: Path, limit: int | None = None) -> Iterator[Outcome]:
    """A crash at every operation of a run, and at every operation of one that goes on after a crash; then a resume.

    limit: only so many of the states, evenly spread.
    """
    import seekr_lite as sl

    recipe = recipe_for("seekr", "continue").with_(train={"epochs": 1}, adapter={"rank": 4})
    first = Watch(folder / "whole")
    with first.watching():
        sl.run(recipe, output=first.folder, listener=QUIET)
    whole = Whole.of(first.folder)
    # Of the second run those operations are new that clear away what a crash left: half an adapter, half a line.
    broken = [state for state in first.states if "half of save_file adapters" in state.what][-1]
    second = Watch(folder / "again")
    first.lay_out(broken, second.folder)
    with real_open(second.folder / "log.jsonl", "a") as log:
        log.write('{"event": "st')
    with second.watching():
        sl.run(recipe, output=second.folder, listener=QUIET)
    every = [(watch, state) for watch in (first, second) for state in watch.states]
    for watch, state in every[:: max(1, len(every) // limit)][:limit] if limit else every:
        output = folder / "crashed"
        watch.lay_out(state, output)
        phase = whole.phase_of(output)
        problem = ""
        try:
            sl.run(recipe, output=output, listener=QUIET)
        except Exception as error:
            problem = repr(error)
        equal = artefacts(output) == whole.artefacts
        # The second run goes on after a crash of its own.
        allowed = CHECKPOINT_STEPS * (1 if watch is first else 2)
        yield Outcome(f"crash {state.what}", (phase,), equal, steps_done_twice(output), allowed, problem)
        shutil.rmtree(output)
