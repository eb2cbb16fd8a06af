"""Files that are whole or not there: written beside their place, synced, moved into it. JSON and safetensors only."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seekr_lite.errors import UserError
from seekr_lite.limits import MAX_FILE_BYTES
from seekr_lite.strict_json import strict_json


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; it takes `path`'s place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def user_file(path: str | Path) -> Iterator[Path]:
    """`new_file` for a file that the user named. Raises `UserError` where it cannot be written."""
    try:
        with new_file(Path(path)) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"{path}: this file cannot be written: {error.strerror or error}") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`; it takes `path`'s place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():  # left behind by a stop before it was recorded
            shutil.rmtree(path)
        temporary.rename(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return strict_json(read_limited(path))
    except FileNotFoundError:
        raise UserError(f"{path}: this file of the run is missing") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: this file of the run is damaged: {error}") from None


def read_limited(path: Path) -> str:
    """The text of a file of a run. Raises `OSError` and `ValueError`, the latter where it is too large or no UTF-8."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES:,} bytes")
    return path.read_text(encoding="utf-8")


def read_tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: this file of the run is missing") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: this file of the run is damaged: {error}") from None


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
