"""Files that are whole or not there: written beside their place, synced, moved into it. JSON and safetensors only.

What cannot be written is reported by `writing`, for every file of a run.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError

from seekr_lite.common.errors import MAX_FILE_BYTES, Stopped, UserError, shown

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around everything that writes a file of a run.

    Raises:
        Stopped: the block could not write: what the operating system says, and how to go on.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            way = "Free some room"
        elif error.errno in NOT_ALLOWED:
            way = "Allow writing there"
        else:
            way = "See to it that it can be written"
        raise Stopped(
            f"{path}: cannot be written: {error.strerror or error}. {way} and run the same command: everything "
            "recorded so far is kept, and it goes on from there"
        ) from None


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; it takes `path`'s place when the block ends well.

    Raises:
        Stopped: it cannot be written.
    """
    with writing(path), _in_place_of(path) as temporary:
        yield temporary


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def user_path(path: str | Path) -> Path:
    """A path as people write them: `~` is the home folder. `~somebody` whom nobody knows stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


@contextmanager
def user_file(path: str | Path) -> Iterator[Path]:
    """`new_file` for a file that the user named; of a link, the file it leads to. Raises `UserError` where it cannot be
    written, or is a folder, a device or a pipe: those are not replaced."""
    try:
        target = user_path(path).resolve()
        if target.exists() and not target.is_file():
            raise UserError(f"{path}: this file cannot be written: there is something else of that name; name a file")
        with _in_place_of(target) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"{path}: this file cannot be written: {error.strerror or error}") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder, for files, beside `path`; it takes `path`'s place when the block ends well.

    Raises:
        Stopped: it cannot be written.
    """
    # What is there was left behind by a stop before it was recorded.
    with writing(path), _folder_in_place_of(path, replace=True) as temporary:
        yield temporary


@contextmanager
def _folder_in_place_of(path: Path, replace: bool) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        temporary.chmod(0o755)
        if replace and path.exists():
            shutil.rmtree(path)
        temporary.rename(path)  # onto an empty folder at most
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def user_folder(path: str | Path) -> Iterator[Path]:
    """`new_folder` for a folder that the user named and that is not there yet.

    Raises:
        UserError: there is something of that name, or it cannot be written.
    """
    path = user_path(path)
    if path.exists() or path.is_symlink():
        raise UserError(
            f"{path}: there is something of that name already, and nothing is overwritten; name another one"
        )
    try:
        with _folder_in_place_of(path, replace=False) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"{path}: this folder cannot be written: {error.strerror or error}") from None


def append_text(path: Path, text: str) -> None:
    """Adds to a file that may end in the middle of a line after a stop. Raises `Stopped` where it cannot be written."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def write_text(path: Path, text: str) -> None:
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    write_text(path, json_text(values))


def json_text(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, at a temporary path. Raises `OSError`, whose words safetensors keeps, but not its number."""
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises `UserError` where the block finds no file, or one that is damaged."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: this file of the run is missing") from None
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: this file of the run is damaged: {error}") from None


def read_json(path: Path) -> Any:
    with _reading(path):
        return strict_json(read_limited(path))


def read_limited(path: Path) -> str:
    """The text of a file of a run. Raises `OSError` and `ValueError`, the latter where it is too large or no UTF-8."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES:,} bytes")
    return path.read_text(encoding="utf-8")


def read_tensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    with _reading(path):
        return load_file(path)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def strict_json(text: str) -> Any:
    """Raises `ValueError` where the text is no JSON, holds a key twice, or a number that JSON does not have, and
    `RecursionError` where it is nested too deep."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} stands twice in an object; keep one of them")
    return values


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON; write a number, or null")
